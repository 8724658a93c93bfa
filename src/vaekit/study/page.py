"""The report of a study: one HTML file with everything inside, a CSV beside it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from vaekit.files import atomic_write, check_target
from vaekit.quality.metrics import Quality
from vaekit.study import charts
from vaekit.study.experiments import Study
from vaekit.study.result import COLUMNS, Finding

TILE = 256
"""Pixels on the longer side of a picture in the page."""


@dataclass(frozen=True)
class Tile:
    """A picture in the page. uri: a data URI."""

    uri: str
    caption: str
    detail: str


@dataclass(frozen=True)
class Row:
    """One experiment's pictures."""

    title: str
    text: str
    tiles: Sequence[Tile]


TEXTS = {
    "rounded": "Each channel in so many equal steps from its least to its greatest value.",
    "noise added": "Gaussian noise of that standard deviation, where latents have about 1.",
    "channel dropped": "Every value of the channel replaced by its mean.",
    "channels swapped": "Each channel in the place of its neighbour.",
    "another VAE": "The same latents decoded by other VAEs of the family.",
    "as good a file": "The smallest files whose PSNR is not below that of the decoded latents.",
}


def check(html: Path, *, force: bool) -> Path:
    """Where the CSV goes. Raise OutputError now if either could not be written later."""
    table = html.with_suffix(".csv")
    for path in (html, table):
        check_target(path, force=force)
    return table


def write(study: Study, html: Path, *, force: bool = False) -> Path:
    """Write the page and the CSV beside it; gives the path of the CSV. Raises OutputError."""
    table = check(html, force=force)
    with atomic_write(table, force=force) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(finding.row() for finding in study.findings)
        for name, touched in study.touched.items():
            for variant, value in (
                ("pixels that change by a level", touched.seen),
                ("half of the change within, pixels", touched.half),
                ("95% of the change within, pixels", touched.most),
            ):
                writer.writerow([name, "one cell changed", variant, f"{value:.6g}", "", "", "", ""])
    page = _render(study)
    with atomic_write(html, force=force) as part:
        part.write_text(page, "utf-8")
    return table


def _render(study: Study) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vaekit.study", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = resources.files("vaekit.quality").joinpath("page.css").read_text("utf-8")
    return environment.get_template("page.html.j2").render(
        study=study,
        css=Markup(css),
        rate=_rate(study),
        noise=_noise(study),
        dropped=charts.bars({name: p for name, _, p, _ in study.mean("channel dropped")}, "PSNR, dB", _plain(study)),
        swapped=charts.bars({name: p for name, _, p, _ in study.mean("channels swapped")}, "PSNR, dB", _plain(study)),
        tables=[(name, study.mean(name)) for name in ("as it is", *TEXTS) if study.mean(name)],
        views=[(name, _rows(study, name)) for name in study.originals],
        columns=COLUMNS,
    )


def _noise(study: Study) -> Markup:
    points = [(value or 0.0, mean) for _, value, mean, _ in study.mean("noise added")]
    return charts.lines({"noise": points}, "standard deviation", "PSNR, dB")


def _plain(study: Study) -> float:
    return study.mean("as it is")[0][2]


def _rate(study: Study) -> Markup:
    """Bits per pixel against quality, means over the pictures; JPEG and WebP where they are as good."""
    files = [f for f in study.findings if f.experiment == "as good a file" and f.quality is not None]
    series = {"latents, entropy": [(b or 0.0, p) for _, _, p, b in study.mean("rounded")]}
    for format in ("JPEG", "WEBP"):
        found = [(f.bits_per_pixel or 0.0, f.quality.psnr) for f in files if f.quality and f.variant == format]
        if found:
            series[format] = [tuple(sum(values) / len(found) for values in zip(*found, strict=True))]
    plain = study.mean("as it is")[0]
    series["latents, 16 bits"] = [(plain[3] or 0.0, plain[2])]
    return charts.lines(series, "bits per pixel", "PSNR, dB", logarithmic=True)


def _rows(study: Study, name: str) -> list[Row]:
    plain = study.of(name, "as it is")[0]
    first = [_tile(study.originals[name], "original", ""), _of(plain, "encoded and decoded")]
    rows = [Row("There and back", "", first)]
    for experiment, text in TEXTS.items():
        tiles = [_of(one) for one in study.of(name, experiment) if one.result is not None]
        if tiles:
            rows.append(Row(experiment.capitalize(), text, tiles))
    touched = study.touched[name]
    told = (
        f"The middle cell changed by 1 in every channel: {touched.seen:,} of {touched.pixels:,} pixels change by a "
        f"level or more, in a box of {touched.box[0]}×{touched.box[1]}; half of the change lies within "
        f"{touched.half:.1f} pixels of the cell's middle, 95% within {touched.most:.1f}."
    )
    rows.append(Row("What one cell touches", told, [_tile(touched.map.convert("RGB"), "change", "square root")]))
    mixed, faded = study.of(name, "latents mixed"), study.of(name, "pixels mixed")
    if mixed:
        text = (
            "From another picture to this one. Detail is the energy of steps between neighbours, beside mixed pixels."
        )
        pairs = [
            tile for one, two in zip(mixed, faded, strict=True) for tile in (_mixed(one), _of(two, "pixels mixed"))
        ]
        rows.append(Row("Between two pictures", text, pairs))
    return rows


def _mixed(finding: Finding) -> Tile:
    assert finding.result is not None
    return _tile(finding.result, f"latents, {finding.variant}", f"{finding.value:.2f}× the detail")


def _of(finding: Finding, caption: str | None = None) -> Tile:
    assert finding.result is not None
    bits = "" if finding.bits_per_pixel is None else f"{finding.bits_per_pixel:.2f} bit/pixel"
    file = f"quality {finding.value:g}" if finding.experiment == "as good a file" and finding.value else ""
    detail = ", ".join(part for part in (file, _words(finding.quality), bits) if part)
    return _tile(finding.result, caption or finding.variant, detail)


def _words(quality: Quality | None) -> str:
    return "" if quality is None else f"{quality.psnr:.2f} dB"


def _tile(picture: Image.Image, caption: str, detail: str) -> Tile:
    shown = picture.copy()
    shown.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=92, subsampling=0)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Tile(uri, caption, detail)

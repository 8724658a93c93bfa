"""The report of a comparison: one HTML file with everything inside, that asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from vaekit.quality import sheets
from vaekit.quality.measures import MEASURES, in_words
from vaekit.quality.places import Box
from vaekit.quality.result import Compared, Comparison, Gallery, after

LARGEST, SMALLEST = 1024, 256
"""Pixels: bounds of the longer side that pictures have in the page."""

MAP = 640
"""Pixels: the longer side of difference maps at most."""

MOST_PIXELS = 64_000_000
"""Of all results in the page together; about 20 MB of JPEG."""


@dataclass(frozen=True)
class Shown:
    """A picture inside the page. uri: a data URI."""

    label: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """One `Compared` with its pictures as the page has them. places: the same square of every picture."""

    compared: Compared
    whole: tuple[Shown, ...]
    places: tuple[tuple[Box, tuple[Shown, ...]], ...]
    differences: tuple[Shown, ...]

    def caption(self, label: str) -> str:
        """How close a result is, to stand behind its label; nothing for what it is measured against."""
        psnr = {trial.vae: trial.trips[0].psnr for trial in self.compared.trials}
        psnr |= {after(trial.vae, len(trial.trips)): trial.trips[-1].psnr for trial in self.compared.trials}
        known = label in psnr and label != self.compared.reference
        return f" {MEASURES[0].text(psnr[label])} dB" if known else ""


class Page:
    """Takes one picture after the other, and keeps of each what the page shows.

    expected: how many results there will be; the more, the smaller they are shown.
    """

    def __init__(self, expected: int):
        self._side = max(SMALLEST, min(LARGEST, math.isqrt(MOST_PIXELS // max(1, expected))))
        self._views: list[View] = []

    def add(self, compared: Compared, gallery: Gallery) -> None:
        tiles = gallery.labelled(len(compared.trials[0].trips))
        whole = [_shown(label, sheets.shrunk(tile, self._side), "jpeg") for label, tile in tiles.items()]
        places = [
            (box, tuple(_shown(label, tile.crop(box), "png") for label, tile in tiles.items()))
            for box in compared.places
        ]
        maps = [
            _shown(name, sheets.shrunk(sheets.difference(gallery.reference, tiles[name]), min(MAP, self._side)), "jpeg")
            for name in list(tiles)[1:]
        ]
        self._views.append(View(compared, tuple(whole), tuple(places), tuple(maps)))

    def write(self, path: Path, comparison: Comparison) -> None:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("vaekit.quality", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        script = _resource("page.js")
        page = environment.get_template("page.html.j2").render(
            comparison=comparison,
            views=self._views,
            measures={measure.key: measure for measure in MEASURES},
            in_words=in_words,
            gain=sheets.GAIN,
            css=Markup(_resource("page.css")),
            script=Markup(script),
            # so that nothing runs but this, whatever names files have
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
        path.write_text(page, "utf-8")


def _shown(label: str, picture: Image.Image, kind: str) -> Shown:
    """JPEG with full colour resolution, so that it adds no colour error of its own to see.

    Not with optimize=True: Pillow's buffer for that is too small for text and noise.
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 92, "subsampling": 0} if kind == "jpeg" else {"optimize": True}))
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Shown(label, uri, *picture.size)


def _resource(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")

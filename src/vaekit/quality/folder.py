"""The folder that a comparison leaves: the report, sheets as pictures, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from vaekit import images
from vaekit.errors import OutputError
from vaekit.files import atomic_write, check_target
from vaekit.quality import sheets
from vaekit.quality.measures import MEASURES, for_json
from vaekit.quality.naming import file_names
from vaekit.quality.page import Page
from vaekit.quality.result import Compared, Comparison, Contender, Gallery, Row

PAGE, JSON, CSV = "index.html", "comparison.json", "comparison.csv"


def check(folder: Path, *, force: bool) -> None:
    """Raise OutputError now if a comparison could not be written there later; call it before the expensive part."""
    for name in (PAGE, JSON, CSV):
        check_target(folder / name, force=True)
    try:
        taken = not force and folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    if taken:
        raise OutputError(f"{folder}: exists and is not empty; name another folder, or --force adds to what is there")


def write(
    folder: Path,
    contenders: tuple[Contender, ...],
    each: Iterable[tuple[Compared, Gallery]],
    *,
    expected: int,
    force: bool = False,
) -> Comparison:
    """Write each picture's sheets as it comes, then index.html, comparison.json and comparison.csv.

    expected: how many results there will be, which settles how large the page shows
    them. Every file is whole or not there. Raises OutputError.
    """
    check(folder, force=force)
    page = Page(expected)
    done: list[Compared] = []
    for compared, gallery in each:
        done.append(compared)
        name = file_names([one.name for one in done])[-1]
        _write_sheets(folder, name, compared, gallery, force=force)
        page.add(compared, gallery)
    comparison = Comparison(contenders, tuple(done))
    with atomic_write(folder / JSON, force=force) as part:
        part.write_text(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False), "utf-8")
    with atomic_write(folder / CSV, force=force) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows(comparison))
    with atomic_write(folder / PAGE, force=force) as part:
        page.write(part, comparison)
    return comparison


def _write_sheets(folder: Path, name: str, compared: Compared, gallery: Gallery, *, force: bool) -> None:
    tiles = gallery.labelled(len(compared.trials[0].trips))
    psnr = {trial.vae: f"{trial.vae}, {MEASURES[0].text(trial.trips[0].psnr)} dB" for trial in compared.trials}
    grid = {psnr.get(label, label): tile for label, tile in tiles.items()}
    maps = {
        f"{label}, difference ×{sheets.GAIN}": sheets.difference(gallery.reference, tile)
        for label, tile in tiles.items()
    }
    maps.pop(next(iter(maps)))  # the reference from itself
    images.write(sheets.grid(grid), folder / f"{name}.grid.png", force=force)
    images.write(sheets.enlarged(tiles, compared.places), folder / f"{name}.places.png", force=force)
    if maps:
        images.write(sheets.grid(maps), folder / f"{name}.differences.png", force=force)


def rows(comparison: Comparison) -> Iterator[list[object]]:
    """The comparison as a table: a line for each picture, VAE and round trip, then the means; empty where unknown."""
    keys = [measure.key for measure in MEASURES]
    yield ["picture", "kind", "reference", "vae", "family", "round_trip", "identical", *keys]
    family = {contender.name: contender.family for contender in comparison.contenders}

    def line(picture: str, kind: str, vae: str, trip: int, row: Row) -> list[object]:
        told = for_json(row)
        return [
            picture,
            kind,
            comparison.reference,
            vae,
            family[vae],
            trip,
            told["identical"],
            *(told[key] for key in keys),
        ]

    for trip in range(1, comparison.round_trips + 1):
        for one in comparison.compared:
            for trial in one.trials:
                yield line(one.name, one.kind, trial.vae, trip, trial.row(trip))
    for trip in range(1, comparison.round_trips + 1):
        for table in comparison.tables(trip):
            if table.count > 1:
                for vae, row in table.rows.items():
                    yield line(table.title, "mean", vae, trip, row)

"""Pictures of a comparison: a labelled grid, difference maps, enlarged places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vaekit.quality.places import Box

GAIN = 4
"""How much difference maps are brightened."""

TILE = 1024
"""Pixels: larger pictures are shrunk to this on their longer side in a grid."""

ENLARGED = 256
"""Pixels: at least so wide are places drawn, by a whole factor."""

MOST_PIXELS = 200_000_000
GAP = 12
LABEL = 24
FONT_SIZE = 15


def difference(reference: Image.Image, result: Image.Image) -> Image.Image:
    """Absolute difference of two RGB pictures of one size, times GAIN, cut at white; black where they agree."""
    distance = np.abs(np.asarray(reference, np.int16) - np.asarray(result, np.int16))
    return Image.fromarray(np.minimum(distance * GAIN, 255).astype(np.uint8))


def shrunk(picture: Image.Image, side: int) -> Image.Image:
    """No side longer than `side`; the picture itself where it is none."""
    if max(picture.size) <= side:
        return picture
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def grid(tiles: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures of one size in a grid that is about square, each under its label."""
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    side = min(TILE, math.isqrt(MOST_PIXELS // (columns * rows)))
    cells = [(label, shrunk(tile, side)) for label, tile in tiles.items()]
    return _sheet([cells[row * columns : (row + 1) * columns] for row in range(rows)])


def enlarged(tiles: Mapping[str, Image.Image], places: Sequence[Box]) -> Image.Image:
    """A row for each place, the same square of every picture, enlarged without smoothing."""
    return _sheet(
        [
            [(label if row == 0 else "", enlarge(tile.crop(box))) for label, tile in tiles.items()]
            for row, box in enumerate(places)
        ]
    )


def enlarge(picture: Image.Image) -> Image.Image:
    zoom = -(-ENLARGED // max(picture.size))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Cells of one size, each under its label, cut to the cell's width."""
    font = ImageFont.load_default(FONT_SIZE)
    tile = rows[0][0][1]
    tops = [0]
    for row in rows:
        tops.append(tops[-1] + GAP + tile.height + (LABEL if any(label for label, _ in row) else 0))
    sheet = Image.new("RGB", (max(map(len, rows)) * (tile.width + GAP) + GAP, tops[-1] + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, top in zip(rows, tops, strict=False):
        labelled = any(label for label, _ in row)
        for column, (label, picture) in enumerate(row):
            left = GAP + column * (tile.width + GAP)
            draw.text((left, top + GAP), _cut(label, font, tile.width), fill="black", font=font)
            sheet.paste(picture, (left, top + GAP + (LABEL if labelled else 0)))
    return sheet


def _cut(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a label as there is room for."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(f"{label}…") > width:
        label = label[:-1]
    return f"{label}…"

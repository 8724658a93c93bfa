"""Latents as pictures: every channel, the linear preview, and a sheet of them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vaekit.errors import LatentsError, OptionError
from vaekit.latents.core import Latents

Palette = Literal["grey", "diverging"]
Scale = Literal["common", "channel"]
Values = NDArray[np.float64]

STOPS: dict[Palette, list[tuple[int, int, int]]] = {
    "grey": [(0, 0, 0), (255, 255, 255)],
    "diverging": [(33, 102, 172), (103, 169, 207), (247, 247, 247), (239, 138, 98), (178, 24, 43)],
}
"""Colours at equal steps from the lowest value to the highest. Blue is negative, red positive, white 0:
colours of ColorBrewer's RdBu (colorbrewer2.org), which people with any colour vision tell apart."""

MAGENTA = (255, 0, 255)
"""NaN: neither palette has this colour."""

LARGEST = 1e300
"""Infinities are drawn as this; differences of two such values are still finite."""

MOST_PIXELS = 200_000_000
FONT_SIZE = 14
LABEL_HEIGHT = 22
GAP = 12


def channels(
    latents: Latents, *, index: int = 0, palette: Palette = "grey", scale: Scale = "common", zoom: int = 4
) -> list[Image.Image]:
    """One RGB picture [h·zoom, w·zoom] per channel, enlarged without smoothing.

    index: which picture of the batch. palette: "grey", from the 0.5th to the
    99.5th percentile, or "diverging", blue-white-red and symmetric about 0.
    scale: one range for all channels ("common") or one each ("channel"). NaN is
    magenta. Raises OptionError for what it does not know or cannot draw.
    """
    _check_choice("palette", palette, get_args(Palette))
    _check_choice("scale", scale, get_args(Scale))
    values = _picture(latents, index)
    _check_zoom(zoom, values.size)
    common = _range(values, palette)
    ranges = [common if scale == "common" else _range(channel, palette) for channel in values]
    return [_enlarge(_colour(v, low, high, palette), zoom) for v, (low, high) in zip(values, ranges, strict=True)]


def preview(latents: Latents, *, index: int = 0, zoom: int = 1) -> Image.Image:
    """A small RGB picture by the family's linear factors, a pixel per cell (FLUX.2: 2×2 per cell) times zoom.

    Raises LatentsError where the family has no factors, OptionError for an
    index or a zoom that nothing can be done with.
    """
    family = latents.family
    if not family.preview:
        raise LatentsError(f"{family.name} has no preview factors; decode the latents, or draw their channels")
    values = _unfolded(_picture(latents, index), family.fold)
    _check_zoom(zoom, values.shape[1] * values.shape[2])
    rgb = np.moveaxis(values, 0, -1) @ np.asarray(family.preview) + np.asarray(family.preview_bias)
    pixels = np.round((np.nan_to_num(rgb).clip(-1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    pixels[np.isnan(rgb).any(axis=2)] = MAGENTA
    return _enlarge(pixels, zoom)


def sheet(
    latents: Latents,
    *,
    index: int = 0,
    palette: Palette = "grey",
    scale: Scale = "common",
    zoom: int = 4,
    columns: int | None = None,
) -> Image.Image:
    """All channels in a grid, each under a label with its lowest and highest value; first the preview, if there is one.

    columns: as many as make the grid about square, if not given. Raises
    OptionError for what it does not know or cannot draw.
    """
    tiles = channels(latents, index=index, palette=palette, scale=scale, zoom=zoom)
    labels = [f"channel {number}, {_extent(v)}" for number, v in enumerate(_picture(latents, index))]
    if latents.family.preview:
        tiles.insert(0, preview(latents, index=index, zoom=max(1, zoom // latents.family.fold)))
        labels.insert(0, "preview")
    if columns is not None and columns < 1:
        raise OptionError(f"{columns} columns are not possible; give 1 or more")
    return _grid(tiles, labels, columns or math.ceil(math.sqrt(len(tiles))))


def _check_choice(name: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise OptionError(f"no {name} is called {given!r}; there are {' and '.join(known)}")


def _check_zoom(zoom: int, pixels: int) -> None:
    if zoom < 1:
        raise OptionError(f"zoom {zoom} is not possible; give a whole number from 1 up")
    if pixels * zoom**2 > MOST_PIXELS:
        raise OptionError(f"zoom {zoom} gives a picture of more than {MOST_PIXELS:,} pixels; give a smaller one")


def _picture(latents: Latents, index: int) -> Values:
    """The values [C, h, w] of one picture of the batch, infinities as very large numbers."""
    if not 0 <= index < len(latents):
        raise OptionError(f"there is no picture {index} among {len(latents)}; they are counted from 0")
    values = latents.tensor[index].detach().cpu().double().numpy()
    return cast(Values, np.clip(values, -LARGEST, LARGEST))


def _unfolded(values: Values, fold: int) -> Values:
    """[C·fold², h, w] -> [C, h·fold, w·fold], the inverse of folding 2×2 cells into one."""
    count, height, width = values.shape
    parts = values.reshape(count // fold**2, fold, fold, height, width)
    return parts.transpose(0, 3, 1, 4, 2).reshape(-1, height * fold, width * fold)


def _range(values: Values, palette: Palette) -> tuple[float, float]:
    """What the ends of the palette stand for: percentiles, so that a few outliers do not grey out the rest."""
    known = values[~np.isnan(values)]
    low, high = (float(v) for v in np.percentile(known, [0.5, 99.5])) if known.size else (0.0, 0.0)
    if palette == "diverging":
        high = max(abs(low), abs(high))
        low = -high
    return low, high


def _colour(values: Values, low: float, high: float, palette: Palette) -> NDArray[np.uint8]:
    """Values [h, w] -> pixels [h, w, 3]."""
    stops = np.array(STOPS[palette], np.float64)
    place = np.full(values.shape, 0.5)  # where all values are the same
    if high > low:
        place = (np.nan_to_num(values).clip(low, high) - low) / (high - low)
    steps = np.linspace(0.0, 1.0, len(stops))
    pixels = np.stack([np.interp(place, steps, stops[:, part]) for part in range(3)], axis=-1)
    pixels[np.isnan(values)] = MAGENTA
    return np.round(pixels).astype(np.uint8)


def _enlarge(pixels: NDArray[np.uint8], zoom: int) -> Image.Image:
    return Image.fromarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1))


def _extent(values: Values) -> str:
    """The lowest and the highest value in words; the default font has no other minus than the hyphen."""
    known = values[~np.isnan(values)]
    if not known.size:
        return "all NaN"
    return f"{_number(known.min())} … {_number(known.max())}"


def _number(value: float) -> str:
    if abs(value) >= LARGEST:
        return "inf" if value > 0 else "-inf"
    return f"{value:.1f}" if 0.05 <= abs(value) < 10_000 or value == 0 else f"{value:.0e}"


def _grid(tiles: list[Image.Image], labels: list[str], columns: int) -> Image.Image:
    font = ImageFont.load_default(FONT_SIZE)
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width = GAP + max(*(tile.width for tile in tiles), *(math.ceil(font.getlength(label)) for label in labels))
    height = GAP + LABEL_HEIGHT + max(tile.height for tile in tiles)
    if (columns * width + GAP) * (rows * height + GAP) > MOST_PIXELS:
        raise OptionError(f"a sheet of more than {MOST_PIXELS:,} pixels; give a smaller zoom")
    grid = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(grid)
    for place, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        draw.text((left, top), label, fill="black", font=font)
        grid.paste(tile, (left, top + LABEL_HEIGHT))
    return grid

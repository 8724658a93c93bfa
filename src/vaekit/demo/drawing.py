"""Pictures that show what an autoencoder lost: differences, the worst places, the planes of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """The same square of an original and of what came back; box: left, top, right, bottom in pixels."""

    box: tuple[int, int, int, int]
    original: Image.Image
    result: Image.Image


def planes(picture: Image.Image) -> list[Image.Image]:
    """The red, green and blue plane of an RGB picture, each in its own colour."""
    black = Image.new("L", picture.size)
    bands = picture.split()
    return [Image.merge("RGB", [bands[i] if i == k else black for i in range(3)]) for k in range(3)]


def difference(original: Image.Image, result: Image.Image, gain: int = 4) -> Image.Image:
    """Absolute difference of two RGB pictures of one size, times `gain`, cut at white; black where they agree."""
    return Image.fromarray(np.minimum(_distance(original, result) * gain, 255).astype(np.uint8))


def worst_crops(original: Image.Image, result: Image.Image, count: int = 3, side: int = 96) -> list[Crop]:
    """The squares of `side` pixels with the largest squared error, worst first; no two overlap.

    Fewer than `count` where the picture has no room for more; one smaller
    crop where it is smaller than `side`.
    """
    side = min(side, *original.size)
    error = np.square(_distance(original, result)).sum(axis=2)
    boxes = [(x, y, x + side, y + side) for x, y in _largest_squares(error, count, side)]
    return [Crop(box, original.crop(box), result.crop(box)) for box in boxes]


def side_by_side(left: Image.Image, right: Image.Image, zoom: int = 4, gap: int = 8) -> Image.Image:
    """Two pictures of one size beside each other, enlarged without smoothing."""
    width, height = left.width * zoom, left.height * zoom
    sheet = Image.new("RGB", (2 * width + gap, height), "white")
    for picture, x in ((left, 0), (right, width + gap)):
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x, 0))
    return sheet


def _distance(a: Image.Image, b: Image.Image) -> NDArray[np.int64]:
    return np.abs(np.asarray(a, dtype=np.int64) - np.asarray(b, dtype=np.int64))


def _largest_squares(error: NDArray[np.int64], count: int, side: int) -> Iterator[tuple[int, int]]:
    """Left and top of the squares with the largest sums, greedily, by a summed-area table."""
    table = np.pad(error, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    for _ in range(count):
        y, x = np.unravel_index(np.argmax(sums), sums.shape)
        if sums[y, x] < 0:
            return
        yield int(x), int(y)
        sums[max(0, y - side + 1) : y + side, max(0, x - side + 1) : x + side] = -1

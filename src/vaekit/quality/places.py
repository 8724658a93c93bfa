"""The squares of a picture where something is largest: an error, or what several results disagree about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


def where_they_differ(
    reference: Image.Image, results: Sequence[Image.Image], *, count: int = 3, side: int = 64
) -> list[Box]:
    """The squares of `side` pixels where RGB pictures of one size vary most among each other, worst first.

    Where they are all the same (or there is one only), those where they are
    farthest from the reference. No two overlap; fewer, or one smaller, where
    the picture has no room for more.
    """
    stack = np.stack([np.asarray(picture, np.float32) for picture in results])
    spread = stack.var(axis=0).sum(axis=2)
    if not spread.any():
        spread = np.square(stack[0] - np.asarray(reference, np.float32)).sum(axis=2)
    side = min(side, *reference.size)
    return [(x, y, x + side, y + side) for x, y in largest_squares(spread, count, side)]


def largest_squares(amount: NDArray[np.floating], count: int, side: int) -> Iterator[tuple[int, int]]:
    """Left and top of the squares with the largest sums, greedily, by a summed-area table; no two overlap.

    amount: [H, W], not negative, both sides at least `side`.
    """
    table = np.pad(amount.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    for _ in range(count):
        y, x = (int(index) for index in np.unravel_index(np.argmax(sums), sums.shape))
        if np.isneginf(sums[y, x]):
            return
        yield x, y
        sums[max(0, y - side + 1) : y + side, max(0, x - side + 1) : x + side] = -np.inf

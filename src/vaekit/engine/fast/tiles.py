"""The two changes of basis of `winograd`, compiled by numba on the machine they run on.

As products with matrices of 36×36 they take six times the arithmetic, and copies
before and after.
"""

from typing import Any

import numba
import numpy as np

from vaekit.engine.fast.winograd import LARGE, SMALL

S1, S2, S3 = (np.float32(SMALL**n) for n in (1, 2, 3))
L1, L2, L3 = (np.float32(LARGE**n) for n in (1, 2, 3))
BOTH, EITHER = np.float32(SMALL**2 * LARGE**2), np.float32(SMALL**2 + LARGE**2)


def _compiled(function):
    """Kept on the disk, where numba finds a place for it."""
    options: Any = {"nogil": True, "fastmath": {"contract"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)


_inlined = numba.njit(inline="always", fastmath={"contract"})


@_inlined
def _into(x0, x1, x2, x3, x4, x5):
    """Six neighbours, as values at the points."""
    even_small, odd_small = x4 - L2 * x2, S1 * (x3 - L2 * x1)
    even_large, odd_large = x4 - S2 * x2, L1 * (x3 - S2 * x1)
    return (
        BOTH * x0 - EITHER * x2 + x4,
        even_small + odd_small,
        even_small - odd_small,
        even_large + odd_large,
        even_large - odd_large,
        BOTH * x1 - EITHER * x3 + x5,
    )


@_inlined
def _back(p0, p1, p2, p3, p4, p5):
    """Products at the points, as four neighbours."""
    even_small, odd_small, even_large, odd_large = p1 + p2, p1 - p2, p3 + p4, p3 - p4
    return (
        p0 + even_small + even_large,
        S1 * odd_small + L1 * odd_large,
        S2 * even_small + L2 * even_large,
        S3 * odd_small + L3 * odd_large + p5,
    )


@_compiled
def into(first, last, x, enlarged, margin_above, margin_left, across, offset, values):
    """Places first to last of values [36, places, channels], from the tiles `offset` later of rows x [h, w, channels]
    with zeros around.

    enlarged: 1 where each number stands for 2×2 pixels. margin_above, margin_left: pixels above and left of the first
    tile's first result. across: tiles in a row.
    """
    height, width, channels = x.shape[0] << enlarged, x.shape[1] << enlarged, x.shape[2]
    near, half = np.empty((6, 6, channels), np.float32), np.empty((6, 6, channels), np.float32)
    for place in range(first, last):
        tile = place + offset
        top, left = tile // across * 4 + margin_above - 1, tile % across * 4 + margin_left - 1
        for i in range(6):
            for j in range(6):
                y, z = top + i, left + j
                if 0 <= y < height and 0 <= z < width:
                    for c in range(channels):
                        near[i, j, c] = x[y >> enlarged, z >> enlarged, c]
                else:
                    for c in range(channels):
                        near[i, j, c] = 0
        for j in range(6):
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _into(
                    near[0, j, c], near[1, j, c], near[2, j, c], near[3, j, c], near[4, j, c], near[5, j, c]
                )
                half[j, 0, c], half[j, 1, c], half[j, 2, c] = v0, v1, v2
                half[j, 3, c], half[j, 4, c], half[j, 5, c] = v3, v4, v5
        for k in range(6):
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _into(
                    half[0, k, c], half[1, k, c], half[2, k, c], half[3, k, c], half[4, k, c], half[5, k, c]
                )
                near[k, 0, c], near[k, 1, c], near[k, 2, c] = v0, v1, v2
                near[k, 3, c], near[k, 4, c], near[k, 5, c] = v3, v4, v5
        for k in range(6):
            for j in range(6):
                for c in range(channels):
                    values[6 * k + j, place, c] = near[k, j, c]


@_compiled
def back(first, last, products, bias, across, offset, out, add, relu):
    """Places first to last of products [36, places, channels] -> the tiles `offset` later of rows out [h, w, channels],
    which are filled or added to."""
    height, width, channels = out.shape
    near, half = np.empty((6, 6, channels), np.float32), np.empty((6, 4, channels), np.float32)
    for place in range(first, last):
        tile = place + offset
        top, left = tile // across * 4, tile % across * 4
        for k in range(6):
            for j in range(6):
                for c in range(channels):
                    near[k, j, c] = products[6 * k + j, place, c]
        for j in range(6):
            for c in range(channels):
                v0, v1, v2, v3 = _back(
                    near[0, j, c], near[1, j, c], near[2, j, c], near[3, j, c], near[4, j, c], near[5, j, c]
                )
                half[j, 0, c], half[j, 1, c], half[j, 2, c], half[j, 3, c] = v0, v1, v2, v3
        for k in range(4):
            for c in range(channels):
                v0, v1, v2, v3 = _back(
                    half[0, k, c], half[1, k, c], half[2, k, c], half[3, k, c], half[4, k, c], half[5, k, c]
                )
                near[k, 0, c], near[k, 1, c], near[k, 2, c], near[k, 3, c] = v0, v1, v2, v3
        for k in range(min(4, height - top)):
            for j in range(min(4, width - left)):
                for c in range(channels):
                    v = near[k, j, c] + bias[c]
                    if add:
                        v += out[top + k, left + j, c]
                    if relu:
                        v = max(v, np.float32(0))
                    out[top + k, left + j, c] = v

"""Black pictures and black tiles: what NaN becomes when a decoder's result is turned into 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vaekit.quality.places import Box

Values = NDArray[np.float32]

BLACK = 3.5 / 255
"""JPEG leaves a level or two."""
CELL = 8
"""Pixels: tiles begin and end where cells of the latents do."""
SMALLEST = 64
"""Pixels: the side of the smallest tile that programs use."""
FULL = 0.995
"""Share of a tile that must be black."""
BAR = 0.25
"""A black bar along a whole side is a frame up to this share of the picture."""


def is_black(picture: Values) -> bool:
    """Whether a picture [H, W, 3] in [0, 1] is black all over."""
    return bool(picture.max() <= BLACK)


def find_black_tiles(picture: Values) -> Iterator[Box]:
    """Black rectangles as tiled decoding leaves them: on the grid of cells, large, and no frame around the picture."""
    from skimage.measure import label, regionprops

    height, width = picture.shape[:2]
    thick = _without_lines(picture.max(axis=2) <= BLACK)
    for region in regionprops(label(thick, connectivity=1)):  # type: ignore[no-untyped-call]
        top, left, bottom, right = (int(edge) for edge in region.bbox)
        box = (left, top, right, bottom)
        if region.extent >= FULL and _is_tile(box, width, height) and not _fades_out(picture, box):
            yield box


def _without_lines(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What of it is thicker than a cell: scans have black lines at their edges, which would join tiles to them."""
    from skimage.morphology import opening

    return np.asarray(opening(mask.astype(np.uint8), np.ones((CELL + 1, CELL + 1))), bool)


def _is_tile(box: Box, width: int, height: int) -> bool:
    left, top, right, bottom = box
    if min(right - left, bottom - top) < SMALLEST:
        return False
    if any(edge % CELL and edge != end for edge, end in ((left, 0), (top, 0), (right, width), (bottom, height))):
        return False
    if right - left == width:
        return bottom - top > BAR * height
    return bottom - top < height or right - left > BAR * width


def _fades_out(picture: Values, box: Box) -> bool:
    """Whether what borders on it is nearly black too, as in a night scene or a vignette."""
    left, top, right, bottom = box
    height, width = picture.shape[:2]
    beside = [
        picture[top - 1, left:right] if top else None,
        picture[bottom, left:right] if bottom < height else None,
        picture[top:bottom, left - 1] if left else None,
        picture[top:bottom, right] if right < width else None,
    ]
    return any(line is not None and float(np.median(line.max(axis=1))) <= 3 * BLACK for line in beside)

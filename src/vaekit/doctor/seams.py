"""Seams of tiled decoding: straight lines on the grid of cells, all across a picture.

Two kinds. Tiles with a tint of their own: the colour jumps by the same amount along the line, and scatters no more
than differences elsewhere do; an edge in the picture brings its own scatter. Tiles without overlap: the zeros that a
network sees beyond a tile tear the picture along the whole line, and nowhere beside it. Lightness and the two colour
axes are looked at apart, for in colour pictures are smooth and tiles are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]

AXES = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], np.float32)
"""RGB -> Y, Cb, Cr."""
CELL = 8
MARGIN = 48
"""Pixels: nearer to the edge of the picture there are frames, and no tiles."""
SHORTEST = 64
"""Pixels: of a line."""
PART = 64
"""Pixels: a line is also looked at in parts of about this length, for at a crossing the tiles beside it change."""
RELATED = 3
"""Pixels that tell about as much as one, because neighbours are alike."""
FLOOR = 0.35
"""Least scatter, in levels of 255, that is believed: that of rounding."""
SMALLEST, LARGEST = 1.0, 20.0
"""Levels of 255 that a seam jumps; what jumps farther is a picture in the picture."""
NEIGHBOURS = 5
"""Lines of the grid on either side, with which a line is compared."""
TORN = 4.0
"""How many times more happens at the edge of a tile than at lines nearby."""
TORN_LARGEST = 80.0
"""Levels of 255 that a torn line jumps."""
RINGING, ALONE = 16, 40
"""Pixels on either side to which a torn line reaches, and beyond them to which nothing else may look like one."""
LEAST_PARTS = 4

Direction = Literal["vertical", "horizontal"]


@dataclass(frozen=True)
class Seam:
    """at: the first column (row) beyond the line. jump: the median along it, in levels of 255."""

    direction: Direction
    at: int
    jump: float


def find_seams(picture: Values) -> list[Seam]:
    """Of a picture [H, W, 3] in [0, 1]."""
    values = picture @ AXES * 255
    return [*_find(values, "vertical"), *_find(values.transpose(1, 0, 2), "horizontal")]


def _find(values: Values, direction: Direction) -> Iterator[Seam]:
    """Vertical seams of values [H, W, 3]; those of the transposed picture are its horizontal ones."""
    height, width = values.shape[:2]
    at = np.arange(-(-MARGIN // CELL) * CELL, width - MARGIN + 1, CELL)
    if height < SHORTEST or at.size <= NEIGHBOURS:
        return
    jumps = _jumps(values, at)
    whole, parts = _compare([jumps]), _compare(_cut(jumps))
    stepped = _steps_once(whole, parts) | _steps_in_parts(parts)
    size = np.median(np.abs(jumps).max(axis=2), axis=0)
    found = [
        Seam(direction, int(at[line]), float(size[line]))
        for line in np.flatnonzero(stepped | (_is_torn(jumps) & (size <= TORN_LARGEST)))
        if stepped[line] or _stands_alone(values, int(at[line]))
    ]
    for seam in found:  # beside a torn line the network still rings
        if all(other.jump <= seam.jump for other in found if abs(other.at - seam.at) <= RINGING):
            yield seam


def _jumps(values: Values, at: NDArray[np.intp]) -> Values:
    """How much more happens between columns at-1 and at than right before and after, [H, lines, axes], signed."""
    before, across, after = (values[:, at + i] - values[:, at + i - 1] for i in (-1, 0, 1))
    return np.asarray(across - (before + after) / 2)


def _cut(jumps: Values) -> list[Values]:
    return np.array_split(jumps, max(1, round(len(jumps) / PART)))


@dataclass(frozen=True)
class _Lines:
    """Lines of the grid beside their neighbours, each [parts, lines, axes].

    jump: the median along the line, signed. sureness: how many of its standard errors it is beyond what is usual.
    scatter: about the median, over what is usual.
    """

    jump: Values
    sureness: Values
    scatter: Values

    @property
    def size(self) -> Values:
        """Of the jump, [parts, lines]."""
        return np.abs(self.jump).max(axis=2)

    @property
    def axis(self) -> NDArray[np.intp]:
        """The surest one of each line, [parts, lines, 1]."""
        return self.sureness.argmax(axis=2)[..., None]


def _compare(parts: Sequence[Values]) -> _Lines:
    """parts: differences across the lines, [rows, lines, axes] each."""
    jump = np.stack([np.median(part, axis=0) for part in parts])
    scatter = np.stack([np.median(np.abs(part - middle), axis=0) for part, middle in zip(parts, jump, strict=True)])
    scatter *= 1.4826  # as a standard deviation, of a normal distribution
    usual = _nearby(scatter)
    told = np.sqrt([len(part) / RELATED for part in parts])[:, None, None]
    error = 1.2533 * np.maximum(usual, FLOOR) / told  # of a median
    sureness = np.maximum(np.abs(jump) - _nearby(np.abs(jump)), 0) / error
    return _Lines(jump, sureness, (scatter + 0.5) / (usual + 0.5))


def _nearby(values: Values) -> Values:
    """Of each line and its neighbours the median, [parts, lines, axes]."""
    reach = [slice(max(0, line - NEIGHBOURS), line + NEIGHBOURS + 1) for line in range(values.shape[1])]
    return np.stack([np.median(values[:, near], axis=1) for near in reach], axis=1)


def _steps_once(whole: _Lines, parts: _Lines) -> NDArray[np.bool_]:
    """Lines along which the colour jumps by one and the same amount."""
    axis = whole.axis
    jump, sure, scatter = (np.take_along_axis(v, axis, 2)[0, :, 0] for v in (whole.jump, whole.sureness, whole.scatter))
    part = parts.jump[:, np.arange(jump.size), axis[0, :, 0]]
    agreeing = np.mean(part * np.sign(jump) > 0.3 * np.abs(jump), axis=0)
    return (sure >= 8) & (scatter <= 1.3) & (agreeing >= 0.8) & _in_range(whole.size[0])


def _steps_in_parts(parts: _Lines) -> NDArray[np.bool_]:
    """Lines with a jump of its own in nearly every part, as where rows of tiles begin and end."""
    sure, scatter = (np.take_along_axis(v, parts.axis, 2)[..., 0] for v in (parts.sureness, parts.scatter))
    jumping = np.mean((sure > 2) & (scatter < 1.7) & (parts.size < LARGEST), axis=0) >= 0.8
    sure, scatter, size = (np.median(values, axis=0) for values in (sure, scatter, parts.size))
    return jumping & (sure >= 5) & (scatter <= 1.4) & _in_range(size) & (len(parts.jump) >= LEAST_PARTS)


def _in_range(size: Values) -> NDArray[np.bool_]:
    return (size >= SMALLEST) & (size <= LARGEST)


def _is_torn(jumps: Values) -> NDArray[np.bool_]:
    """Lines where most pixels jump, each as it likes, in every part: what zero padding leaves at the edge of a tile."""
    strength = np.stack([np.median(np.abs(part), axis=0) for part in _cut(jumps)])
    beyond = ((strength + 0.5) / (_nearby(strength) + 0.5)).max(axis=2)
    return (beyond.min(axis=0) >= TORN) & (len(beyond) >= LEAST_PARTS)


def _stands_alone(values: Values, at: int) -> bool:
    """Whether no column near `at` jumps like it; lines of text do, and boards, and stripes."""
    columns = np.arange(max(2, at - ALONE), min(values.shape[1] - 1, at + ALONE + 1))
    strength = np.median(np.abs(_jumps(values, columns)), axis=0).max(axis=1)
    others = strength[np.abs(columns - at) > RINGING]
    return bool(strength[columns == at] >= 2.5 * others.max())

"""What a pass needs beside the stored results: windows, weights made ready, arrays to work in. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vaekit.engine.strips.line import LANES
from vaekit.engine.strips.sweeping import Strip, Sweep
from vaekit.engine.strips.task import KEYS_AT_ONCE, Task


@dataclass(frozen=True)
class Working:
    """Bytes of what a pass needs beside the stored results.

    windows: of rows of steps. weights: made ready. slab, made, points: the arrays that all steps use, one after the
    other, for what they convolve, for the rows of the pass's own step, and for Winograd's convolution. own: what a step
    has for itself meanwhile.
    """

    windows: int
    weights: int
    slab: int
    made: int
    points: int
    own: int

    @property
    def total(self) -> int:
        return self.windows + self.weights + self.slab + self.made + self.points + self.own


def working(task: Task, sweep: Sweep, rows: int) -> Working:
    """In strips of so many rows."""
    windows, *arrays = _largest(task, sweep, rows)
    weights = sum(task.weight_bytes(step) for step in sweep.computed)
    return Working(sum(count * task.row_bytes(step) for step, count in windows.items()), weights, *arrays)


@lru_cache(maxsize=100_000)
def _largest(task: Task, sweep: Sweep, rows: int) -> tuple[dict[int, int], int, int, int, int]:
    """The most rows each window ever holds, and the most bytes that the arrays of steps ever take.

    The first strips fill the windows and are the largest; a few more show the rhythm.
    """
    windows: dict[int, int] = {}
    slab = made = own = points = 0
    for i, strip in enumerate(sweep.strips(rows)):
        if i == 8:
            break
        for step, count in window_rows(sweep, strip):
            windows[step] = max(windows.get(step, 0), count)
        for step, count in new_rows(sweep, strip):
            slab = max(slab, slab_bytes(task, step, count))
            own = max(own, own_bytes(task, step, count))
            points = max(points, task.points_bytes(step, count))
        made = max(made, (strip.rows[1] - strip.rows[0]) * task.row_bytes(sweep.target))
    return windows, slab, made, points, own


def window_rows(sweep: Sweep, strip: Strip) -> Iterator[tuple[int, int]]:
    """The windows of a pass and their rows in this strip; the target has none, its rows go to the store."""
    yield from ((span.step, span.window) for span in strip.spans if span.step != sweep.target)


def new_rows(sweep: Sweep, strip: Strip) -> Iterator[tuple[int, int]]:
    """The steps computed in this strip and how many rows of each."""
    read = sweep.read
    yield from ((span.step, span.new[1] - span.new[0]) for span in strip.spans if span.step not in read)


def slab_bytes(task: Task, step: int, rows: int) -> int:
    """Bytes of what `rows` rows of a step are convolved from: rows of its source, activated, with a margin."""
    this = task.line.steps[step]
    if rows == 0:
        return 0
    wide = task.row_bytes(this.source) + 2 * task.line.width_of_source(step) * task.item
    reach = {"conv": rows + 2, "down": 2 * rows + 1, "up": rows // 2 + 2}.get(this.kind, rows)
    return reach * wide


def own_bytes(task: Task, step: int, rows: int) -> int:
    """Bytes of the arrays that a step has for itself while `rows` rows of it are computed."""
    this, out, weights = task.line.steps[step], rows * task.row_bytes(step), task.weight_bytes(step)
    if rows == 0:
        return 0
    if task.at_points(step):
        return 0
    if this.kind == "attend":
        cells, channels = rows * task.line.side(step, task.width), this.channels
        block = min(KEYS_AT_ONCE, task.line.side(step, task.width) * task.line.side(step, task.height))
        if task.attends:  # in float32 what is gathered; queries, twice; the block's keys and values, in two orders
            gathered, keys = 4 * cells * (channels + LANES + 1), 2 * channels * (block + KEYS_AT_ONCE) * task.item
            return gathered + 2 * cells * channels * task.item + keys + out + weights
        # in float32: queries, what is gathered, and its share of a block; scores; the block's keys and values
        return 4 * (3 * cells * channels + 2 * cells * block + 2 * cells + 4 * block * channels) + out + weights
    if this.kind == "up":  # of four kinds of pixels, one at a time
        return weights // 2 + out // 4 + (0 if task.in_place else out // 4)
    return weights + (0 if task.in_place else out)

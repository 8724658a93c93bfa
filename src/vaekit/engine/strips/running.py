"""A plan carried out with the modules of the plain network; the result is that of one piece.

Rows lie as [rows, width, channels] (what torch calls channels_last), so that a
strip is contiguous, a 1×1 convolution is a matrix product, and 3×3 ones need no
rearranged copies of their input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.engine.fast import attention, normalised, winograd
from vaekit.engine.fast.folding import quarters
from vaekit.engine.fast.fused import add_convolved, packed, point, point_into
from vaekit.engine.strips import attention as plain_attention
from vaekit.engine.strips import statistics
from vaekit.engine.strips.line import Rows, Step
from vaekit.engine.strips.planning import Pass, Plan
from vaekit.engine.strips.statistics import Affine, Statistics, as_picture
from vaekit.engine.strips.stores import (
    IN_A_LINE,
    Ground,
    Kept,
    Scratch,
    Spare,
    Spilled,
    SpillFile,
    Store,
    give_back_heap,
    steady_heap,
)
from vaekit.engine.strips.sweeping import Span
from vaekit.engine.strips.task import KEYS_AT_ONCE
from vaekit.engine.strips.working import working


@dataclass(frozen=True)
class Progress:
    """How far a run is: strip `strip` of `strips` in pass `number` of `passes` is done. share: of the time, 0 to 1."""

    number: int
    passes: int
    strip: int
    strips: int
    share: float

    def of_batch(self, picture: int, batch: int) -> Progress:
        """The same, for one picture of several."""
        return replace(self, share=(picture + self.share) / batch)


class Runner:
    """One run of a plan over one picture.

    source(first, out): fills `out` [n, width, channels] with the input's rows
    from `first` on. sink(first, rows): takes the result's rows, from top to
    bottom. folder: for temporary files. told: called after every strip.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        source: Callable[[int, Tensor], None],
        sink: Callable[[int, Tensor], None],
        *,
        dtype: torch.dtype,
        device: torch.device,
        folder: Path,
        told: Callable[[Progress], None] | None = None,
    ):
        self.plan, self.task, self.line = plan, plan.task, plan.task.line
        self._module = network.get_submodule
        self._source, self._sink, self._told = source, sink, told
        self._dtype, self._device, self._file = dtype, device, SpillFile(folder)
        self._stores: dict[int, Store] = {}
        self._statistics: dict[int, Statistics] = {}
        self._affines: dict[str, Affine] = {}
        self._windows: dict[int, _Window] = {}
        self._spare = Spare(dtype, device)
        self._slab, self._rows, self._quarter, self._points = (Scratch(dtype, device) for _ in range(4))
        self._of_pass = plan.task
        self._loops = self.task.winograd and self.line.winograd_pays(self.task.height, self.task.width)
        self._ground = Ground(dtype, device, max(map(_numbers, plan.passes)))
        self._weights: dict[int, list[Tensor]] = {}

    def run(self) -> None:
        last_use = self.plan.last_use()
        with steady_heap(), closing(self._file):
            for i, one in enumerate(self.plan.passes):
                last = frozenset(step for step, use in last_use.items() if use == i)
                self._run_pass(one, i, last)
                for step in last & self._stores.keys():
                    self._stores.pop(step).let_go(self.line.side(step, self.task.height))
                for scratch in (self._slab, self._rows, self._quarter, self._points):
                    scratch.clear()
                self._keep_for(i + 1)
                give_back_heap()

    def _keep_for(self, number: int) -> None:
        """Of the spare chunks, those that pass `number` will fill; its memory counts them."""
        target = self.plan.passes[number].sweep.target if number < len(self.plan.passes) else None
        if target is None or self.plan.places[target] != "keep":
            self._spare.clear()
            return
        rows = self.task.chunk_rows(target)
        size = rows * self._width(target) * self.line.steps[target].channels
        self._spare.keep(size, self.line.side(target, self.task.height) // rows)

    def _run_pass(self, one: Pass, number: int, last: frozenset[int]) -> None:
        target, sweep = one.sweep.target, one.sweep
        self._of_pass = one.task
        self._open(target)
        self._lay_out(one)
        read, count = frozenset(sweep.read), 0
        for strip in sweep.strips(one.rows):
            for span in strip.spans:
                if span.step != target:
                    self._windows[span.step].keep_from(span.first)
                if span.new[0] == span.new[1]:
                    continue
                if span.step in read:
                    self._read(span, let_go=span.step in last)
                elif span.step == target:
                    self._deliver(target, strip.rows[0], self._make(target, span.new))
                else:
                    self._compute(span.step, span.new, self._windows[span.step].room(span.new[1] - span.new[0]))
            count += 1
            self._tell(one, number, count)
        self._windows, self._weights = {}, {}

    def _lay_out(self, one: Pass) -> None:
        """Windows, and the arrays that steps use one after the other."""
        self._ground.begin(_numbers(one))
        self._windows = {
            step: _Window(self._ground.take(capacity, self._width(step), self.line.steps[step].channels))
            for step, capacity in one.sweep.capacities(one.rows).items()
        }
        needed, item = working(one.task, one.sweep, one.rows), one.task.item
        sizes = (needed.slab, needed.made, needed.points)
        for scratch, size in zip((self._slab, self._rows, self._points), sizes, strict=True):
            scratch.put(self._ground.take(size // item))

    def _open(self, target: int) -> None:
        step, place = self.line.steps[target], self.plan.places[target]
        height, width = self.line.side(target, self.task.height), self._width(target)
        if place == "keep":
            chunk_rows = self.task.chunk_rows(target)
            self._stores[target] = Kept(height, width, step.channels, chunk_rows, self._spare)
        elif place == "spill":
            self._stores[target] = Spilled(width, step.channels, self._dtype, self._file)
        if step.normed:
            self._statistics[target] = Statistics(step.channels, self._device)

    def _width(self, step: int) -> int:
        return self.line.side(step, self.task.width)

    def _read(self, span: Span, *, let_go: bool) -> None:
        window = self._windows[span.step]
        out = window.room(span.new[1] - span.new[0])
        if span.step == 0:
            self._source(span.new[0], out)
            return
        self._stores[span.step].read(span.new[0], out)
        if let_go:
            self._stores[span.step].let_go(span.new[1])

    def _make(self, target: int, rows: Rows) -> Tensor:
        """Rows of a pass's result, which are there until the next strip."""
        out = self._rows.take(rows[1] - rows[0], self._width(target), self.line.steps[target].channels)
        self._compute(target, rows, out)
        return out

    def _deliver(self, target: int, first: int, rows: Tensor) -> None:
        if target in self._statistics:
            (normalised.add if self._loops else Statistics.add)(self._statistics[target], rows)
        if self.plan.places[target] == "result":
            self._sink(first, rows)
        elif target in self._stores:
            self._stores[target].write(rows)

    def _tell(self, one: Pass, number: int, strip: int) -> None:
        if self._told is not None:
            done = sum(p.seconds for p in self.plan.passes[:number]) + one.seconds * strip / one.strips
            self._told(Progress(number + 1, len(self.plan.passes), strip, one.strips, done / self.plan.seconds))

    # One step

    def _compute(self, place: int, rows: Rows, out: Tensor) -> None:
        """Fill `out` with rows of one step's result, from the windows of what it reads."""
        step = self.line.steps[place]
        if step.kind == "attend":
            self._attend(step, place, rows, out)
        elif step.kind == "keys":
            self._keys(step, rows, out)
        elif self._of_pass.at_points(place):
            self._convolve_at_points(step, place, rows, out)
        elif step.kind == "up":
            self._enlarge(step, place, rows, out)
        else:
            self._convolve(step, place, rows, out)
        if step.after == "signed":
            out.mul_(2).sub_(1)

    def _begin(self, step: Step, rows: Rows, out: Tensor) -> None:
        """Fill `out` with what the convolution is added to. A shortcut comes after it, as in one piece: half precision
        rounds the other order to other numbers, 0.2 dB farther from float32 for one network."""
        if step.residual is None or step.shortcut is not None:
            out.zero_()
        else:
            out.copy_(self._windows[step.residual].rows(*rows))

    def _convolve(self, step: Step, place: int, rows: Rows, out: Tensor) -> None:
        conv, relu = self._conv(step.name), step.after == "relu"
        if step.kind == "point" and step.residual is None:
            point_into(self._activated(step, rows), conv, out)
            if relu:
                out.relu_()
            return
        self._begin(step, rows, out)
        height = self.line.side(step.source, self.task.height)
        first, last = rows
        stride, pad = 1, 0
        if step.kind == "point":
            slab = self._activated(step, rows)
        elif step.kind == "down":
            stride, pad = 2, step.pad
            inside, over = _clipped(2 * first - pad, 2 * last + 1 - pad, height)
            slab = self._activated(step, inside, over, (0, 0 if pad else 1))
        else:
            inside, over = _clipped(first - 1, last + 1, height)
            if self.line.padding == "reflect":
                slab = self._activated(step, inside, over, (1, 1))
                _mirror(slab, over)
            else:
                slab, pad = self._activated(step, inside, over), 1
        picture, into = as_picture(slab), as_picture(out)
        if place not in self._weights:
            self._weights[place] = [packed(conv.weight, picture, stride=stride, pad=(0, pad))]
        how: dict[str, Any] = {"stride": stride, "pad": (0, pad), "relu": relu and step.shortcut is None}
        add_convolved(into, picture, self._weights[place][0], conv.bias, **how)
        self._add_shortcut(step, rows, out)

    def _convolve_at_points(self, step: Step, place: int, rows: Rows, out: Tensor) -> None:
        """By Winograd's convolution, of an enlargement too."""
        enlarged, height = int(step.kind == "up"), self.line.side(step.source, self.task.height)
        inside, over = _clipped((rows[0] >> enlarged) - 1, (rows[1] >> enlarged) + 1, height)
        if self.line.padding == "reflect":
            slab, margin = self._activated(step, inside, over, (1, 1)), (1 << enlarged, 1 << enlarged)
            _repeat_edges(slab, over) if enlarged else _mirror(slab, over)
        else:
            slab, margin = self._activated(step, inside), (rows[0] - (inside[0] << enlarged), 0)
        conv, added = self._conv(step.name), step.residual is not None
        if step.shortcut is not None:
            assert step.residual is not None
            point_into(self._windows[step.residual].rows(*rows), self._conv(step.shortcut), out)
        elif added:
            self._begin(step, rows, out)
        if place not in self._weights:
            self._weights[place] = [winograd.weights_at_points(conv.weight, self._ground.take)]
        winograd.convolve(
            slab,
            self._weights[place][0],
            conv.bias,
            out,
            self._points.take,
            margin=margin,
            enlarged=bool(enlarged),
            add=added,
            relu=step.after == "relu",
        )

    def _add_shortcut(self, step: Step, rows: Rows, out: Tensor) -> None:
        if step.shortcut is not None:
            short, relu = self._conv(step.shortcut), step.after == "relu"
            assert step.residual is not None
            added = as_picture(self._windows[step.residual].rows(*rows))
            add_convolved(as_picture(out), added, short.weight, short.bias, relu=relu)

    def _activated(self, step: Step, rows: Rows, over: Rows = (0, 0), beside: Rows = (0, 0)) -> Tensor:
        """Rows of the source, normalised and activated, with rows of zeros above and below and columns beside.

        It is there until the next step.
        """
        window = self._windows[step.source].rows(*rows)
        if step.norm is None and step.before is None and over == beside == (0, 0):
            return window
        n, width, channels = window.shape
        slab = self._slab.take(over[0] + n + over[1], beside[0] + width + beside[1], channels)
        slab[: over[0]] = 0
        slab[over[0] + n :] = 0
        slab[:, : beside[0]] = 0
        slab[:, beside[0] + width :] = 0
        inside = slab[over[0] : over[0] + n, beside[0] : beside[0] + width]
        affine = self._affine(step) if step.norm is not None else None
        (normalised if self._loops else statistics).activate(window, affine, step.before, inside)
        return slab

    def _affine(self, step: Step) -> Affine:
        assert step.norm is not None
        if step.norm not in self._affines:
            norm = self._module(step.norm)
            assert isinstance(norm, nn.GroupNorm)
            self._affines[step.norm] = self._statistics[step.source].affine(norm, self._device)
        return self._affines[step.norm]

    def _enlarge(self, step: Step, place: int, rows: Rows, out: Tensor) -> None:
        """Nearest enlargement and 3×3 convolution, folded: each of four kinds of pixels sees 2×2 cells."""
        conv = self._conv(step.name)
        inside, over = _clipped(rows[0] // 2 - 1, rows[1] // 2 + 1, self.line.side(step.source, self.task.height))
        slab = self._activated(step, inside, over, (1, 1))
        if self.line.padding == "reflect":  # the mirrored pixel beside an edge belongs to the edge's own cell
            _repeat_edges(slab, over)
        n, width = slab.shape[0] - 2, slab.shape[1] - 2
        parts = [as_picture(slab[i : i + n + 1, j : j + width + 1]) for i, j in product((0, 1), repeat=2)]
        if place not in self._weights:
            self._weights[place] = [packed(w, x) for w, x in zip(quarters(conv.weight), parts, strict=True)]
        pixels = out.view(n, 2, width, 2, step.channels)
        for i, x in enumerate(parts):
            quarter = self._quarter.take(n, width, step.channels).zero_()
            add_convolved(as_picture(quarter), x, self._weights[place][i], conv.bias)
            pixels[:, i // 2, :, i % 2] = quarter

    def _keys(self, step: Step, rows: Rows, out: Tensor) -> None:
        slab = self._activated(step, rows)
        half = step.channels // 2
        out[..., :half] = point(slab, self._conv(f"{step.name}.k"))
        out[..., half:] = point(slab, self._conv(f"{step.name}.v"))

    def _attend(self, step: Step, place: int, rows: Rows, out: Tensor) -> None:
        assert step.keys is not None
        x = self._windows[step.source].rows(*rows)
        queries = point(self._activated(step, rows), self._conv(f"{step.name}.q"))
        attend = attention.attend if self.task.attends else plain_attention.attend
        height, window = self.line.side(step.keys, self.task.height), self.line.window
        if window is None:
            gathered = attend(queries.flatten(0, 1), self._blocks(step.keys, (0, height)))
        else:
            reach = ((max(0, row - window), min(height, row + window + 1)) for row in range(*rows))
            by_row = zip(queries, reach, strict=True)
            gathered = torch.stack([attend(row, self._blocks(step.keys, seen)) for row, seen in by_row])
        point_into(gathered.view(x.shape).to(self._dtype), self._conv(f"{step.name}.proj_out"), out)
        out.add_(x)

    def _blocks(self, keys: int, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
        """The keys and values of these rows, a few rows of cells at a time."""
        store, channels = self._stores[keys], self.line.steps[keys].channels
        width = self._width(keys)
        at_once = min(rows[1] - rows[0], max(1, KEYS_AT_ONCE // width))
        block = torch.empty((at_once, width, channels), dtype=self._dtype, device=self._device)
        for first in range(*rows, at_once):
            part = block[: min(at_once, rows[1] - first)]
            store.read(first, part)
            for cells in torch.split(part.flatten(0, 1), KEYS_AT_ONCE):
                yield cells[:, : channels // 2], cells[:, channels // 2 :]

    def _conv(self, name: str) -> nn.Conv2d:
        module = self._module(name)
        assert isinstance(module, nn.Conv2d)
        return module


def _numbers(one: Pass) -> int:
    """How many of a pass lie in its ground: windows, Winograd's weights, and what steps use one after the other."""
    task, needed = one.task, working(one.task, one.sweep, one.rows)
    windows = [rows * task.row_bytes(step) for step, rows in one.sweep.capacities(one.rows).items()]
    weights = [task.weight_bytes(step) for step in one.sweep.computed if task.at_points(step)]
    arrays = (*windows, *weights, needed.slab, needed.made, needed.points)
    return sum(size // task.item + IN_A_LINE for size in arrays)


class _Window:
    """The rows of one step that exist at the moment, in a buffer that is as high as they ever are."""

    def __init__(self, buffer: Tensor):
        """buffer: [rows, width, channels]."""
        self._buffer = buffer
        self._first = self._count = 0

    def keep_from(self, first: int) -> None:
        """Let go of the rows before `first`; the others move to the front."""
        gone = first - self._first
        if gone <= 0:
            return
        stay = max(0, self._count - gone)
        for start in range(0, stay, gone):  # pieces that do not overlap, from the front
            count = min(gone, stay - start)
            self._buffer[start : start + count] = self._buffer[start + gone : start + gone + count]
        self._first, self._count = first, stay

    def room(self, count: int) -> Tensor:
        """Space for as many rows more, to be filled at once."""
        self._count += count
        return self._buffer[self._count - count : self._count]

    def rows(self, first: int, last: int) -> Tensor:
        return self._buffer[first - self._first : last - self._first]


def _clipped(first: int, last: int, height: int) -> tuple[Rows, Rows]:
    """Rows as those that there are, and how many lie above and below the picture."""
    return (max(0, first), min(height, last)), (max(0, -first), max(0, last - height))


def _mirror(slab: Tensor, over: Rows) -> None:
    """Fill the outermost rows where they lie beyond the picture, and the outermost columns, by reflection."""
    inner = slab[over[0] : slab.shape[0] - over[1]]
    slab[: over[0]] = inner[min(1, inner.shape[0] - 1)]
    if over[1]:
        slab[-1] = inner[max(-2, -inner.shape[0])]
    width = slab.shape[1] - 2
    slab[:, 0] = slab[:, 1 + min(1, width - 1)]
    slab[:, -1] = slab[:, width - min(1, width - 1)]


def _repeat_edges(slab: Tensor, over: Rows) -> None:
    if over[0]:
        slab[0] = slab[1]
    if over[1]:
        slab[-1] = slab[-2]
    slab[:, 0] = slab[:, 1]
    slab[:, -1] = slab[:, -2]

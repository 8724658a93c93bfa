"""A plan carried out with the modules of the plain network; the result is that of one piece.

Rows lie as [rows, width, channels] (what torch calls channels_last), so that a
strip is contiguous, a 1×1 convolution is a matrix product, and 3×3 ones need no
rearranged copies of their input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.engine.fast.folding import quarters
from vaekit.engine.fast.fused import add_convolved, convolve
from vaekit.engine.strips.attention import attend
from vaekit.engine.strips.line import Rows, Step
from vaekit.engine.strips.planning import KEYS_AT_ONCE, Pass, Plan
from vaekit.engine.strips.statistics import Affine, Statistics
from vaekit.engine.strips.stores import Kept, Spilled, Store, give_back_heap, steady_heap
from vaekit.engine.strips.sweeping import Span

BLOCK = 1 << 16
"""Numbers that are normalised and activated together, so that they stay in the processor's cache."""


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
        self._dtype, self._device, self._folder = dtype, device, folder
        self._stores: dict[int, Store] = {}
        self._statistics: dict[int, Statistics] = {}
        self._affines: dict[str, Affine] = {}
        self._windows: dict[int, _Window] = {}
        self._weights: dict[int, Tensor] = {}

    def run(self) -> None:
        last_use = self.plan.last_use()
        with steady_heap():
            for i, one in enumerate(self.plan.passes):
                last = frozenset(step for step, use in last_use.items() if use == i)
                self._run_pass(one, i, last)
                give_back_heap()
                for step in last:
                    self._stores.pop(step, None)

    def _run_pass(self, one: Pass, number: int, last: frozenset[int]) -> None:
        target, sweep = one.sweep.target, one.sweep
        self._open(target)
        self._windows = {
            step: _Window(capacity, self._width(step), self.line.steps[step].channels, self._dtype, self._device)
            for step, capacity in one.sweep.capacities(one.rows).items()
        }
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
                    self._deliver(target, strip.rows[0], self._compute(target, span.new))
                else:
                    self._windows[span.step].extend(self._compute(span.step, span.new))
            count += 1
            self._tell(one, number, count)
        self._windows, self._weights = {}, {}

    def _open(self, target: int) -> None:
        step, place = self.line.steps[target], self.plan.places[target]
        height, width = self.line.side(target, self.task.height), self._width(target)
        if place == "keep":
            chunk_rows = self.task.chunk_rows(target)
            self._stores[target] = Kept(height, width, step.channels, chunk_rows, self._dtype, self._device)
        elif place == "spill":
            self._stores[target] = Spilled(width, step.channels, self._dtype, self._folder)
        if step.normed:
            self._statistics[target] = Statistics(step.channels)

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

    def _deliver(self, target: int, first: int, rows: Tensor) -> None:
        if target in self._statistics:
            self._statistics[target].add(rows)
        if self.plan.places[target] == "result":
            self._sink(first, rows)
        elif target in self._stores:
            self._stores[target].write(rows)

    def _tell(self, one: Pass, number: int, strip: int) -> None:
        if self._told is not None:
            done = sum(p.seconds for p in self.plan.passes[:number]) + one.seconds * strip / one.strips
            self._told(Progress(number + 1, len(self.plan.passes), strip, one.strips, done / self.plan.seconds))

    # One step

    def _compute(self, place: int, rows: Rows) -> Tensor:
        """Rows of one step's result, from the windows of what it reads."""
        step = self.line.steps[place]
        if step.kind == "attend":
            return self._attend(step, place, rows)
        if step.kind == "keys":
            return self._keys(step, rows)
        out = (self._enlarge if step.kind == "up" else self._convolve)(step, place, rows)
        return out.mul_(2).sub_(1) if step.after == "signed" else out

    def _residual(self, step: Step, rows: Rows) -> Tensor | None:
        """What the convolution is added to, in its place; the window stays as it is."""
        if step.residual is None:
            return None
        residual = self._windows[step.residual].rows(*rows)
        return residual.clone() if step.shortcut is None else _point(residual, self._conv(step.shortcut))

    def _convolve(self, step: Step, place: int, rows: Rows) -> Tensor:
        conv, relu = self._conv(step.name), step.after == "relu"
        height = self.line.side(step.source, self.task.height)
        first, last = rows
        if step.kind == "point":
            out, into = _point(self._activated(step, rows, (0, 0), 0), conv), self._residual(step, rows)
            out = out if into is None else into.add_(out)
            return out.relu_() if relu else out
        if step.kind == "down":
            first, last = 2 * first - step.pad, 2 * last + 1 - step.pad
            slab = self._activated(step, (max(0, first), min(height, last)), (max(0, -first), max(0, last - height)), 0)
            slab = slab if step.pad else F.pad(slab, (0, 0, 0, 1))
            return _conv(slab, self._weight(place, conv), conv.bias, stride=2, pad=step.pad, relu=relu)
        reflect = self.line.padding == "reflect"
        first, last = first - 1, last + 1
        inside, over = (max(0, first), min(height, last)), (max(0, -first), max(0, last - height))
        slab = self._activated(step, inside, over, int(reflect))
        if reflect:
            _mirror(slab, over)
        into, pad = self._residual(step, rows), 0 if reflect else 1
        return _conv(slab, self._weight(place, conv), conv.bias, pad=pad, into=into, relu=relu)

    def _activated(self, step: Step, rows: Rows, over: Rows, beside: int) -> Tensor:
        """Rows of the source, normalised and activated, with rows of zeros above and below and columns beside."""
        window = self._windows[step.source].rows(*rows)
        plain = step.norm is None and step.before is None
        if plain and over == (0, 0) and not beside:
            return window
        n, width, channels = window.shape
        slab = window.new_empty((over[0] + n + over[1], width + 2 * beside, channels))
        slab[: over[0]] = 0
        slab[over[0] + n :] = 0
        inside = slab[over[0] : over[0] + n, beside : beside + width]
        if plain:
            inside.copy_(window)
            return slab
        affine = self._affine(step) if step.norm is not None else None
        at_once = max(1, BLOCK // (width * channels))
        for start in range(0, n, at_once):
            _activate(window[start : start + at_once], affine, step.before, inside[start : start + at_once])
        return slab

    def _affine(self, step: Step) -> Affine:
        assert step.norm is not None
        if step.norm not in self._affines:
            norm = self._module(step.norm)
            assert isinstance(norm, nn.GroupNorm)
            self._affines[step.norm] = self._statistics[step.source].affine(norm, self._device)
        return self._affines[step.norm]

    def _enlarge(self, step: Step, place: int, rows: Rows) -> Tensor:
        """Nearest enlargement and 3×3 convolution, folded: each of four kinds of pixels sees 2×2 cells.

        What 3×3 pixels of the enlarged picture share of a cell is summed in the
        weights beforehand: four ninths of the arithmetic, and no enlarged picture.
        """
        conv = self._conv(step.name)
        height = self.line.side(step.source, self.task.height)
        first, last = rows[0] // 2, rows[1] // 2
        inside, over = (max(0, first - 1), min(height, last + 1)), (int(first == 0), int(last == height))
        slab = self._activated(step, inside, over, 1)
        if self.line.padding == "reflect":  # the mirrored pixel beside an edge belongs to the edge's own cell
            _repeat_edges(slab, over)
        else:
            slab[:, 0] = 0
            slab[:, -1] = 0
        if place not in self._weights:
            self._weights[place] = quarters(conv.weight)
        n, width = last - first, slab.shape[1] - 2
        out = slab.new_empty((n, 2, width, 2, step.channels))
        for down in (0, 1):
            for right in (0, 1):
                part = slab[down : down + n + 1, right : right + width + 1]
                out[:, down, :, right] = _conv(part, self._weights[place][2 * down + right], conv.bias)
        return out.view(2 * n, 2 * width, step.channels)

    def _keys(self, step: Step, rows: Rows) -> Tensor:
        slab = self._activated(step, rows, (0, 0), 0)
        half = step.channels // 2
        out = slab.new_empty((*slab.shape[:2], step.channels))
        out[..., :half] = _point(slab, self._conv(f"{step.name}.k"))
        out[..., half:] = _point(slab, self._conv(f"{step.name}.v"))
        return out

    def _attend(self, step: Step, place: int, rows: Rows) -> Tensor:
        assert step.keys is not None
        x = self._windows[step.source].rows(*rows)
        queries = _point(self._activated(step, rows, (0, 0), 0), self._conv(f"{step.name}.q"))
        gathered = attend(queries.float().flatten(0, 1), self._blocks(step.keys))
        out = _point(gathered.view(x.shape).to(self._dtype), self._conv(f"{step.name}.proj_out"))
        return out.add_(x)

    def _blocks(self, keys: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All keys and values, a few rows of cells at a time."""
        store, channels = self._stores[keys], self.line.steps[keys].channels
        height, width = self.line.side(keys, self.task.height), self._width(keys)
        at_once = min(height, max(1, KEYS_AT_ONCE // width))
        block = torch.empty((at_once, width, channels), dtype=self._dtype, device=self._device)
        for first in range(0, height, at_once):
            part = block[: min(at_once, height - first)]
            store.read(first, part)
            for cells in torch.split(part.flatten(0, 1), KEYS_AT_ONCE):
                yield cells[:, : channels // 2], cells[:, channels // 2 :]

    def _conv(self, name: str) -> nn.Conv2d:
        module = self._module(name)
        assert isinstance(module, nn.Conv2d)
        return module

    def _weight(self, place: int, conv: nn.Conv2d) -> Tensor:
        if place not in self._weights:
            self._weights[place] = conv.weight.contiguous(memory_format=torch.channels_last)
        return self._weights[place]


class _Window:
    """The rows of one step that exist at the moment, in a buffer that is as high as they ever are."""

    def __init__(self, capacity: int, width: int, channels: int, dtype: torch.dtype, device: torch.device):
        self._buffer = torch.empty((capacity, width, channels), dtype=dtype, device=device)
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

    def extend(self, rows: Tensor) -> None:
        self.room(rows.shape[0]).copy_(rows)

    def rows(self, first: int, last: int) -> Tensor:
        return self._buffer[first - self._first : last - self._first]


def _activate(x: Tensor, affine: Affine | None, before: str | None, out: Tensor) -> None:
    """out = before(norm(x)), in float32 in between."""
    y = x.float() if affine is None else affine.apply(x)
    if before == "silu":
        y = F.silu(y, inplace=affine is not None)
    elif before == "relu":
        y = F.relu(y, inplace=affine is not None)
    elif before == "clamp":
        y = torch.tanh(y / 3) * 3
    elif before == "unit":
        y = y * 0.5 + 0.5
    out.copy_(y)


def _point(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1×1 convolution of rows."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    pad: int = 0,
    into: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """A convolution of rows [n, width, channels], padded with zeros at the sides only, and added to `into`."""
    picture = x.permute(2, 0, 1).unsqueeze(0)
    if into is None:
        out = convolve(picture, weight, bias, stride=stride, pad=(0, pad), relu=relu)
    else:
        out = add_convolved(into.permute(2, 0, 1).unsqueeze(0), picture, weight, bias, pad=(0, pad), relu=relu)
    return out.squeeze(0).permute(1, 2, 0).contiguous()


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

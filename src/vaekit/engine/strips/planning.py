"""Least time inside a memory budget: what of a network's steps to keep, to spill to a file, to do again. No torch.

Everything in a VAE is local but GroupNorm and attention. So a plan is a row of
*passes* over the picture (see sweeping.py), one for each step whose result is
stored or whose statistics a norm needs, and for each step one place:

- "keep": its result is stored in memory, in the dtype the network runs in;
- "spill": its result is stored in a temporary file, written and read once per pass;
- "redo": its result is not stored. Every later pass that needs it computes it
  again, from the nearest stored steps before it. Where no norm needs its
  statistics it does not even have a pass of its own, and is redone just once.

Which place each step gets is decided by dynamic programming. Walking down the
line, all that the future needs to know of the past is the *frontier*: the steps
that later ones read, or redo from, with their places. Time adds up over passes,
and whether a pass fits depends on the frontier alone, so the fastest way to
each frontier is all that has to be remembered. The plan is the fastest there is
with at most REDONE normalised steps redone at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

from vaekit.engine.strips.line import Line, points_numbers
from vaekit.engine.strips.sweeping import Strip, Sweep

Place = Literal["given", "keep", "spill", "redo", "result"]
Frontier = tuple[tuple[int, Place], ...]

MIB = 2**20
CHUNK = 2 * MIB
"""A stored result lies in chunks of rows of about this many bytes, which are let go one by one as they are read."""
CHUNKS = 256
"""How many chunks a stored result has at most."""
COMFORTABLE = 12 * MIB
"""Strips grow until one row of arrays reaches this; higher ones are no faster."""
REDONE = 2
"""How many normalised steps may hang on redoing at once; each costs every later one another time, so more never pay."""
KEYS_AT_ONCE = 1024
"""Cells whose keys and values an attention looks at together."""
OVERHEAD = 20 * MIB
"""What a run takes beside its arrays: generated kernels, the libraries' own buffers, the heap's holes."""
HOLES = 40
"""One part in so many of its arrays is added for what the heap does not give back between them, on the CPU."""
COMFORTABLE_ON_GPU, OVERHEAD_ON_GPU = 128 * MIB, 128 * MIB
"""The same two on a GPU: strips that keep a large one busy; cuBLAS's and cuDNN's workspaces. Not measured yet."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; only their ratios decide a plan. Defaults: two cores of a server, in float32.

    operations: in convolutions. moved: bytes read or written by everything else.
    spilled: bytes written to or read from a temporary file. call: seconds that one
    step of one strip costs at least. weights: bytes of weights made ready, for each strip again.
    """

    operations: float = 140e9
    moved: float = 8e9
    spilled: float = 1.5e9
    call: float = 2e-4
    weights: float = 8e9

    @classmethod
    def usual(cls, item: int, *, gpu: bool = False) -> Rates:
        """Those of a number of so many bytes; what computes in two also does so faster. gpu: of a data centre."""
        if gpu:
            return cls(operations=300e12 if item <= 2 else 30e12, moved=2e12, call=5e-5, weights=2e12)
        return cls() if item > 2 else cls(operations=2.5 * cls.operations)


@dataclass(frozen=True)
class Task:
    """What is to be planned.

    height, width: of the line's input, in cells or pixels. item: bytes of a
    number in the dtype the network runs in. held: bytes that lie in memory the
    whole time, the input among them. result: bytes of the finished result, which
    lies in memory during the last pass (0 where it is written away in strips).
    disk: bytes that may be spilled at a time. rows: force this strip height.
    in_place: a convolution adds to an array that is there, without one of its own.
    plain: one piece is run by the plain network, not by fast.whole. gpu: it is
    run by fast.gpu, and the bytes are those of the GPU's memory. winograd: there is
    fast.winograd, for the convolutions where it pays. threads: how many share it.
    loading: bytes that it takes to be loaded.
    """

    line: Line
    height: int
    width: int
    item: int = 4
    held: int = 0
    result: int = 0
    disk: float = math.inf
    rates: Rates = field(default_factory=Rates)
    rows: int | None = None
    in_place: bool = True
    plain: bool = False
    gpu: bool = False
    winograd: bool = False
    threads: int = 1
    loading: int = 0

    @property
    def overhead(self) -> int:
        """Bytes beside the arrays."""
        loaded = self.loading if self.line.winograd_pays(self.height, self.width) else 0
        return (OVERHEAD_ON_GPU if self.gpu else OVERHEAD) + loaded

    @property
    def comfortable(self) -> int:
        """Bytes that one row of arrays may grow to."""
        return COMFORTABLE_ON_GPU if self.gpu else COMFORTABLE

    @cached_property
    def _row_bytes(self) -> list[int]:
        return [self.line.side(i, self.width) * step.channels * self.item for i, step in enumerate(self.line.steps)]

    @cached_property
    def _bytes_of(self) -> list[int]:
        return [count * self.line.side(i, self.height) for i, count in enumerate(self._row_bytes)]

    @cached_property
    def _at_points(self) -> list[bool]:
        return [self.winograd and self.line.at_points(i, self.height, self.width) for i in range(len(self.line))]

    def row_bytes(self, step: int) -> int:
        """Bytes of one row of a step's result."""
        return self._row_bytes[step]

    def bytes_of(self, step: int) -> int:
        """Bytes of a step's whole result."""
        return self._bytes_of[step]

    def chunk_rows(self, step: int) -> int:
        """Rows in a chunk of a stored result."""
        return max(1, -(-max(CHUNK, self.bytes_of(step) // CHUNKS) // self.row_bytes(step)))

    def at_points(self, step: int) -> bool:
        """Whether a step is run by Winograd's convolution."""
        return self._at_points[step]

    def _cells(self, step: int) -> int:
        return self.line.side(step, self.height) * self.line.side(step, self.width)

    def operations(self, step: int, rows: int | None = None) -> float:
        """Multiplications and additions. rows: of a strip, beyond which the last row of Winograd's tiles hangs over."""
        at_points = self.at_points(step)
        count = self.line.operations(step, self.height, self.width, at_points=at_points)
        return count * (-(-rows // 4) * 4 / rows) if at_points and rows else count

    def moved_at_points(self, step: int) -> float:
        """Bytes whose moving takes as long as Winograd's changes of basis."""
        if not self.at_points(step):
            return 0.0
        channels = self.line.width_of_source(step) + self.line.steps[step].channels
        return float(self._cells(step) * channels * self.item)

    def points_bytes(self, step: int, rows: int) -> int:
        """Bytes of what Winograd's convolution of so many rows works in."""
        if rows == 0 or not self.at_points(step):
            return 0
        tiles = -(-rows // 4) * -(-self.line.side(step, self.width) // 4)
        widths = self.line.width_of_source(step), self.line.steps[step].channels
        return points_numbers(*widths, tiles, self.threads) * self.item

    def weight_bytes(self, step: int) -> int:
        """Bytes of the weights a step works with, as they are made ready for it."""
        this = self.line.steps[step]
        if self.at_points(step):
            return 36 * this.channels * self.line.width_of_source(step) * self.item
        taps = {"conv": 9, "down": 9, "up": 4 * 4, "point": 1, "keys": 2, "attend": 2, "input": 0}[this.kind]
        out = this.channels // 2 if this.kind == "keys" else this.channels
        return taps * out * self.line.width_of_source(step) * self.item


@dataclass(frozen=True)
class Pass:
    """One sweep over the picture. memory, disk: bytes at its peak, all told. seconds: at the task's rates.

    task: the plan's, perhaps without Winograd's convolutions.
    """

    task: Task
    sweep: Sweep
    rows: int
    memory: int
    seconds: float
    operations: float
    spilled: float
    disk: int

    @property
    def strips(self) -> int:
        return -(-self.sweep.line.side(self.sweep.target, self.sweep.height) // self.rows)


@dataclass(frozen=True)
class Plan:
    """What to do, in order, and what it takes. places: one for each step."""

    task: Task
    places: tuple[Place, ...]
    passes: tuple[Pass, ...]

    @property
    def memory(self) -> int:
        """Bytes at the peak."""
        return max(one.memory for one in self.passes)

    @property
    def disk(self) -> int:
        """Bytes of temporary files at the peak."""
        return max(one.disk for one in self.passes)

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.passes)

    @property
    def operations(self) -> float:
        return sum(one.operations for one in self.passes)

    @property
    def spilled(self) -> float:
        """Bytes written to and read from temporary files."""
        return sum(one.spilled for one in self.passes)

    @property
    def strips(self) -> int:
        """The most strips that a pass has."""
        return max(one.strips for one in self.passes)

    def last_use(self) -> dict[int, int]:
        """For each stored step, the place in `passes` after which it is not needed any more."""
        uses: dict[int, int] = {}
        for i, one in enumerate(self.passes):
            uses |= dict.fromkeys(_touched(one.sweep), i)
        return uses


def plan(task: Task, budget: float) -> Plan | None:
    """The fastest plan whose peak stays within `budget` bytes; None where there is none."""
    found = [
        _walk(one, lambda draft: _fitted(draft, budget), lambda whole, one: whole + one.seconds) for one in ways(task)
    ]
    return min((one for one in found if one is not None), key=lambda one: one.seconds, default=None)


def ways(task: Task) -> tuple[Task, ...]:
    """With Winograd's convolutions, where they are there, and without, where loading them takes memory."""
    if not task.winograd or not task.line.winograd_pays(task.height, task.width):
        return (replace(task, winograd=False, loading=0),)
    return (task, replace(task, winograd=False, loading=0)) if task.loading else (task,)


def _fitted(draft: _Draft, budget: float) -> Pass | None:
    """The faster of a pass with Winograd's convolutions, whose weights take four times the memory, and without."""
    drafts = (draft, replace(draft, task=direct(draft.task))) if draft.task.winograd else (draft,)
    fitted = (one for draft in drafts if (one := draft.fitted(budget)) is not None)
    return min(fitted, key=lambda one: one.seconds, default=None)


@lru_cache(maxsize=100)
def direct(task: Task) -> Task:
    """The same without Winograd's convolutions, which stay loaded."""
    return replace(task, winograd=False)


def smallest(task: Task) -> int:
    """The fewest bytes that any plan can do with."""
    task = replace(task, winograd=False, loading=0)
    least = _walk(task, lambda draft: draft.with_rows(draft.least_rows), lambda whole, one: max(whole, one.memory))
    assert least is not None
    return least.memory


def _moved(task: Task, step: int, stored: bool) -> float:
    """Bytes that a step reads and writes beside its convolution: norm, activation, sums, copies."""
    this = task.line.steps[step]
    source, out = task.bytes_of(this.source), task.bytes_of(step)
    touched = (4.0 if this.norm else 3.0 if this.before else 1.0) * source + 2.0 * out
    touched += (out if this.residual is not None else 0) + (out if this.normed else 0) + (2.0 * out if stored else 0)
    return touched + attention_bytes(task, step) + task.moved_at_points(step)


def attention_bytes(task: Task, step: int) -> float:
    """Bytes that the scores of an attention take to be written and read."""
    this = task.line.steps[step]
    if this.kind != "attend":
        return 0.0
    cells = task.line.side(step, task.height) * task.line.side(step, task.width)
    return 16.0 * cells * task.line.attended(step, task.height, task.width)


# Passes


@dataclass(frozen=True)
class _Draft:
    """A pass whose strip height is still open. live: bytes of stored results at its peak."""

    task: Task
    sweep: Sweep
    places: dict[int, Place]
    live: int
    on_disk: int

    @property
    def least_rows(self) -> int:
        return 2 if self.task.line.steps[self.sweep.target].kind == "up" else 1

    @property
    def height(self) -> int:
        return self.task.line.side(self.sweep.target, self.task.height)

    def fitted(self, budget: float) -> Pass | None:
        """With the highest strips that are any use and fit; None where not even the lowest do."""
        if self.task.rows is not None:
            forced = self.with_rows(-(-self.task.rows // self.least_rows) * self.least_rows)
            return forced if forced is not None and forced.memory <= budget else None
        for rows in self._heights():
            drafted = self.with_rows(rows)
            if drafted is not None and drafted.memory <= budget:
                return drafted
        return None

    def _heights(self) -> Iterator[int]:
        """From comfortable strips down to single rows."""
        steps = (*self.sweep.computed, *self.sweep.read)
        zoom = self.task.line.steps[self.sweep.target].zoom
        widest = max(self.task.row_bytes(s) * 2.0 ** (self.task.line.steps[s].zoom - zoom) for s in steps)
        rows = 1 << max(0, int(math.log2(max(1.0, self.task.comfortable / widest))))
        if self.task.line.steps[self.sweep.target].kind == "attend":
            cells = self.task.line.side(self.sweep.target, self.task.width)
            rows = max(rows, 1 << int(math.log2(max(1.0, 2048 / cells))))
        rows = min(rows, 1 << (self.height - 1).bit_length())
        while rows > self.least_rows:
            yield rows
            rows //= 2
        yield self.least_rows

    def with_rows(self, rows: int) -> Pass | None:
        """None where the temporary files would not fit on the disk."""
        if self.on_disk > self.task.disk:
            return None
        task, line = self.task, self.task.line
        arrays = self.live + working(task, self.sweep, rows).total
        memory = task.overhead + task.held + arrays + (0 if task.gpu else arrays // HOLES)
        if self.sweep.target == len(line) - 1:
            memory += task.result
        strips = -(-self.height // rows)
        zoom = line.steps[self.sweep.target].zoom
        work = sum(task.operations(s, _zoomed(rows, line.steps[s].zoom - zoom)) for s in self.sweep.computed)
        stored = self.places[self.sweep.target] == "keep"
        moved = sum(_moved(task, s, stored and s == self.sweep.target) for s in self.sweep.computed)
        moved += sum(2.0 * task.bytes_of(s) for s in self.sweep.read)
        spilled = self._spilled(strips)
        weights = sum(task.weight_bytes(s) for s in self.sweep.computed) * strips
        seconds = (
            work / task.rates.operations
            + moved / task.rates.moved
            + spilled / task.rates.spilled
            + weights / task.rates.weights
            + strips * len(self.sweep.computed) * task.rates.call
        )
        return Pass(task, self.sweep, rows, memory, seconds, work, spilled, self.on_disk)

    def _spilled(self, strips: int) -> float:
        task, target = self.task, self.sweep.target
        spilled = float(task.bytes_of(target)) if self.places[target] == "spill" else 0.0
        spilled += sum(task.bytes_of(s) for s in self.sweep.read if self.places[s] == "spill")
        for step in self.sweep.computed:
            keys = task.line.steps[step].keys
            if keys is not None and self.places[keys] == "spill":
                looks = task.line.attended(step, task.height, task.width)  # by row of queries where there is a window
                times = strips if task.line.window is None else task.line.side(step, task.height)
                spilled += looks * task.line.steps[keys].channels * task.item * times
        return spilled


def _zoomed(rows: int, zoom: int) -> int:
    """Rows of a step, by those of another whose side is 2**-zoom times as long."""
    return rows << zoom if zoom >= 0 else max(1, rows >> -zoom)


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
        return weights // 4  # as they were, in another order
    if this.kind == "attend":
        cells, channels = rows * task.line.side(step, task.width), this.channels
        block = min(KEYS_AT_ONCE, task.line.side(step, task.width) * task.line.side(step, task.height))
        # in float32: queries, what is gathered, and its share of a block; scores; the block's keys and values
        return 4 * (3 * cells * channels + 2 * cells * block + 2 * cells + 4 * block * channels) + out + weights
    if this.kind == "up":  # of four kinds of pixels, one at a time
        return weights // 2 + out // 4 + (0 if task.in_place else out // 4)
    return weights + (0 if task.in_place else out)


# The walk down the line


@dataclass
class _Way:
    """The best way found to a frontier."""

    cost: float
    places: tuple[Place, ...]
    passes: tuple[Pass, ...]


def _walk(task: Task, settle: Callable[[_Draft], Pass | None], add: Callable[[float, Pass], float]) -> Plan | None:
    """Dynamic programming over frontiers; `settle` chooses a pass's strip height or rejects it, `add` is the cost."""
    last = len(task.line) - 1
    ways: dict[Frontier, _Way] = {((0, "given"),): _Way(0.0, ("given",), ())}
    for step in range(1, last + 1):
        options: dict[Frontier, _Way] = {}
        for frontier, way in ways.items():
            for place in _possible(task.line, step):
                after = _advance(task.line, frontier, step, place)
                if sum(task.line.steps[s].normed for s, where in after if where == "redo") > REDONE:
                    continue
                draft = _draft(task, dict(frontier), step, place, dict(after))
                cost, passes = way.cost, way.passes
                if draft is not None:
                    settled = settle(draft)
                    if settled is None:
                        continue
                    cost, passes = add(cost, settled), (*passes, settled)
                if after not in options or cost < options[after].cost:
                    options[after] = _Way(cost, (*way.places, place), passes)
        ways = options
    best = min(ways.values(), key=lambda way: way.cost, default=None)
    return None if best is None else Plan(task, best.places, best.passes)


def _possible(line: Line, step: int) -> tuple[Place, ...]:
    this = line.steps[step]
    if step == len(line) - 1:
        return ("result",)
    if this.kind in ("keys", "attend"):
        return ("keep", "spill")
    passing = line.steps[step + 1].source == step and line.steps[step + 1].zoom == this.zoom
    if passing and not this.normed and this.residual is None:
        return ("redo",)  # the inside of a block without norms: its end is the better thing to store
    return ("keep", "spill", "redo")


def _advance(line: Line, frontier: Frontier, step: int, place: Place) -> Frontier:
    """The frontier after `step` got its place: what later steps read, and what the redone ones of those are made of."""
    places = {**dict(frontier), step: place}
    wanted = _direct(line, step)
    needed: set[int] = set()
    while wanted:
        one = wanted.pop()
        if one not in needed:
            needed.add(one)
            if places[one] == "redo":
                wanted |= set(line.steps[one].reads)
    return tuple((one, places[one]) for one in sorted(needed))


_DIRECT: dict[tuple[Line, int], set[int]] = {}


def _direct(line: Line, step: int) -> set[int]:
    """The steps up to `step` that later ones name."""
    if (line, step) not in _DIRECT:
        later = line.steps[step + 1 :]
        named = {other for s in later for other in (*s.reads, *(() if s.keys is None else (s.keys,)))}
        _DIRECT[line, step] = {other for other in named if other <= step}
    return set(_DIRECT[line, step])


def _draft(task: Task, before: dict[int, Place], step: int, place: Place, after: dict[int, Place]) -> _Draft | None:
    """The pass for a step; None where it needs none, because it is redone and nobody wants its statistics."""
    if place == "redo" and not task.line.steps[step].normed:
        return None
    redone: set[int] = set()
    wanted = list(task.line.steps[step].reads)
    while wanted:
        one = wanted.pop()
        if before[one] == "redo" and one not in redone:
            redone.add(one)
            wanted += task.line.steps[one].reads
    sweep = Sweep(task.line, step, frozenset(redone), task.height)
    live, on_disk = (_live(task, where, before, {**after, step: place}, step) for where in ("keep", "spill"))
    return _Draft(task, sweep, {**before, step: place}, live, on_disk)


def _live(task: Task, where: str, before: dict[int, Place], after: dict[int, Place], step: int) -> int:
    """Bytes stored in one kind of place at the peak of a pass.

    What the pass reads for the last time shrinks, chunk by chunk, while what it
    writes grows; an attention reads its keys until the end.
    """
    keys = task.line.steps[step].keys
    stay = [s for s, place in before.items() if place == where and (s in after or s == keys)]
    go = [s for s, place in before.items() if place == where and s not in after and s != keys]
    new = [step] if after[step] == where else []
    shrinking, growing = (sum(task.bytes_of(s) for s in some) for some in (go, new))
    slack = sum(min(task.bytes_of(s), task.chunk_rows(s) * task.row_bytes(s)) for s in (*go, *new) if go and new)
    return sum(task.bytes_of(s) for s in stay) + max(shrinking, growing) + slack


def _touched(sweep: Sweep) -> set[int]:
    """The stored steps that a pass reads or writes, an attention's keys among them."""
    keys = {sweep.line.steps[s].keys for s in sweep.computed}
    return {*sweep.read, sweep.target, *(k for k in keys if k is not None)}

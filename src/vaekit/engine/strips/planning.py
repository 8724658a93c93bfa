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
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from vaekit.engine.strips.line import Line
from vaekit.engine.strips.sweeping import Sweep
from vaekit.engine.strips.task import Rates, Task
from vaekit.engine.strips.working import working

Place = Literal["given", "keep", "spill", "redo", "result"]
Frontier = tuple[tuple[int, Place], ...]

REDONE = 2
"""How many normalised steps may hang on redoing at once; each costs every later one another time, so more never pay."""
QUERIES = 4096
"""Cells of an attention at a time, if not more; each time all keys are read again."""
HOLES = 40
"""One part in so many of its arrays is added for what the heap does not give back between them, on the CPU."""


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

    def at(self, rates: Rates) -> Plan:
        """The same, in the time that a machine of these rates takes."""
        places, passes = dict(enumerate(self.places)), []
        for one in self.passes:
            task = replace(one.task, rates=rates)
            seconds, *_ = _taken(task, one.sweep, places, one.rows)
            passes.append(replace(one, task=task, seconds=seconds))
        return replace(self, task=replace(self.task, rates=rates), passes=tuple(passes))


def plan(task: Task, budget: float) -> Plan | None:
    """The fastest plan whose peak stays within `budget` bytes; None where there is none."""
    found = [
        _walk(one, lambda draft: _fitted(draft, budget), lambda whole, one: whole + one.seconds) for one in ways(task)
    ]
    return min((one for one in found if one is not None), key=lambda one: one.seconds, default=None)


def ways(task: Task) -> tuple[Task, ...]:
    """With Winograd's convolutions, where they are there, and without, where loading them takes memory."""
    if not task.winograd or not task.line.winograd_pays(task.height, task.width):
        return (_without_loops(task),)
    return (task, _without_loops(task)) if task.loading else (task,)


def _without_loops(task: Task) -> Task:
    return replace(task, winograd=False, attends=False, loading=0)


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
    task = _without_loops(task)
    least = _walk(task, lambda draft: draft.with_rows(draft.least_rows), lambda whole, one: max(whole, one.memory))
    assert least is not None
    return least.memory


def _moved(task: Task, step: int, stored: bool) -> float:
    """Bytes that a step reads and writes beside its convolution: norm, activation, sums, copies."""
    this = task.line.steps[step]
    source, out = task.bytes_of(this.source), task.bytes_of(step)
    touched = (4.0 if this.norm else 3.0 if this.before else 1.0) * source + 2.0 * out
    touched += (out if this.residual is not None else 0) + (out if this.normed else 0) + (2.0 * out if stored else 0)
    return touched


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
            rows = max(rows, 1 << int(math.log2(max(1.0, QUERIES / cells))))
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
        taken = _taken(task, self.sweep, self.places, rows)
        return Pass(task, self.sweep, rows, memory, *taken, self.on_disk)


def _taken(task: Task, sweep: Sweep, places: dict[int, Place], rows: int) -> tuple[float, float, float]:
    """Seconds, operations and spilled bytes of a pass."""
    line, target = task.line, sweep.target
    strips = -(-line.side(target, task.height) // rows)
    heights = {s: _zoomed(rows, line.steps[s].zoom - line.steps[target].zoom) for s in sweep.computed}
    moved = sum(_moved(task, s, places[target] == "keep" and s == target) for s in sweep.computed)
    moved += sum(2.0 * task.bytes_of(s) for s in sweep.read)
    moved += sum(4.0 * _looked_at(task, s, strips) for s in sweep.computed)  # in their order, and in another
    spilled = _spilled(task, sweep, places, strips)
    weights = sum(task.weight_bytes(s) for s in sweep.computed) * strips
    seconds = (
        sum(task.seconds(s, height) for s, height in heights.items())
        + moved / task.rates.moved
        + spilled / task.rates.spilled
        + weights / task.rates.weights
        + strips * len(sweep.computed) * task.rates.call
    )
    return seconds, sum(task.operations(s, height) for s, height in heights.items()), spilled


def _spilled(task: Task, sweep: Sweep, places: dict[int, Place], strips: int) -> float:
    spilled = float(task.bytes_of(sweep.target)) if places[sweep.target] == "spill" else 0.0
    spilled += sum(task.bytes_of(s) for s in sweep.read if places[s] == "spill")
    looking = (s for s in sweep.computed if places.get(task.line.steps[s].keys or 0) == "spill")
    return spilled + sum(_looked_at(task, s, strips) for s in looking)


def _looked_at(task: Task, step: int, strips: int) -> float:
    """Bytes of keys and values that a step reads: all for each strip, or where there is a window for each row."""
    line, keys = task.line, task.line.steps[step].keys
    if keys is None:
        return 0.0
    times = strips if line.window is None else line.side(step, task.height)
    return float(line.attended(step, task.height, task.width) * line.steps[keys].channels * task.item * times)


def _zoomed(rows: int, zoom: int) -> int:
    """Rows of a step, by those of another whose side is 2**-zoom times as long."""
    return rows << zoom if zoom >= 0 else max(1, rows >> -zoom)


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

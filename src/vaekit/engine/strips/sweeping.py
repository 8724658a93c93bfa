"""One pass over a picture, from top to bottom: which rows each strip computes and which it keeps for the next.

A pass makes the result of one step, strip by strip. It starts from steps whose
results are stored; the steps between (the *redone* ones) exist for a few rows at
a time. Every step of a pass has a window of rows. For a strip, the rows needed
are worked out backwards from the strip; rows that the window still holds are not
computed again, so a chain of convolutions costs no more in many strips than in
one, whatever their height. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from vaekit.engine.strips.line import Line, Rows


@dataclass(frozen=True)
class Span:
    """What becomes of one step's window: the rows before `first` go, and `new` are added at its end."""

    step: int
    first: int
    new: Rows

    @property
    def window(self) -> int:
        """How many rows it then holds."""
        return self.new[1] - self.first


@dataclass(frozen=True)
class Strip:
    """One strip of a pass: the rows of its result, and the spans of all steps in the order they are computed."""

    rows: Rows
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Sweep:
    """A pass over a picture that makes the result of `target`.

    redone: the steps between the stored ones and the target. height: of the
    line's input.
    """

    line: Line
    target: int
    redone: frozenset[int]
    height: int

    @cached_property
    def computed(self) -> tuple[int, ...]:
        """The steps whose rows it computes."""
        return tuple(sorted({*self.redone, self.target}))

    @cached_property
    def read(self) -> tuple[int, ...]:
        """The stored steps whose rows it reads, once each and from top to bottom."""
        reads = {other for step in self.computed for other in self.line.steps[step].reads}
        return tuple(sorted(reads - self.redone))

    def strips(self, rows: int) -> Iterator[Strip]:
        """All strips, `rows` rows of the target each, the last perhaps fewer."""
        steps = self.line.steps
        order = tuple(sorted({*self.computed, *self.read}))
        ends = dict.fromkeys(order, 0)
        firsts = dict.fromkeys(order, 0)
        height = self.line.side(self.target, self.height)
        for start in range(0, height, rows):
            strip = (start, min(start + rows, height))
            needs: dict[int, Rows] = {self.target: strip}
            new: dict[int, Rows] = {}
            for step in reversed(order):
                first, last = needs.get(step, (firsts[step], ends[step]))
                if step in self.redone and steps[step].kind == "up":
                    last += last % 2  # rows of an enlargement come in pairs
                firsts[step] = max(firsts[step], first)
                new[step] = (ends[step], max(last, ends[step]))
                ends[step] = new[step][1]
                if step in self.read or new[step][0] == new[step][1]:
                    continue
                for other in steps[step].reads:
                    need = steps[step].rows_of(other, new[step], self.line.side(other, self.height))
                    before = needs.get(other, need)
                    needs[other] = min(before[0], need[0]), max(before[1], need[1])
            yield Strip(strip, tuple(Span(step, firsts[step], new[step]) for step in order))

    def capacities(self, rows: int) -> dict[int, int]:
        """The most rows that the window of each step but the target ever holds."""
        capacities: dict[int, int] = {}
        for strip in self.strips(rows):
            for span in strip.spans:
                if span.step != self.target:
                    capacities[span.step] = max(capacities.get(span.step, 0), span.window)
        return capacities

"""What a run will take, in numbers and in words. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from vaekit.engine.strips.one_piece import one_piece_bytes, one_piece_operations, one_piece_seconds
from vaekit.engine.strips.planning import Pass, Plan
from vaekit.engine.strips.task import Rates, Task


@dataclass(frozen=True)
class Forecast:
    """What `batch` pictures of a task take by a plan, one after the other, or in one piece where there is no plan."""

    task: Task
    plan: Plan | None
    batch: int = 1

    @property
    def passes(self) -> tuple[Pass, ...]:
        return () if self.plan is None else self.plan.passes

    def at(self, rates: Rates) -> Forecast:
        """The same, in the time that a machine of these rates takes."""
        plan = None if self.plan is None else self.plan.at(rates)
        return replace(self, task=replace(self.task, rates=rates), plan=plan)

    @property
    def strips(self) -> int:
        """The most strips that a pass has; 1 in one piece."""
        return 1 if self.plan is None else self.plan.strips

    @cached_property
    def memory(self) -> int:
        """Bytes at the peak, beside what the process holds already."""
        return self.plan.memory if self.plan is not None else whole_bytes(self.task, self.batch)

    @property
    def seconds(self) -> float:
        """At the task's rates."""
        return self.batch * (one_piece_seconds(self.task) if self.plan is None else self.plan.seconds)

    @property
    def operations(self) -> float:
        """Multiplications and additions, each counted."""
        return self.batch * (one_piece_operations(self.task) if self.plan is None else self.plan.operations)

    @property
    def of_attention(self) -> float:
        """Those of them that grow with the square of the picture's area."""
        line = self.task.line
        attending = (i for i, step in enumerate(line.steps) if step.kind == "attend")
        return self.batch * sum(line.operations(i, self.task.height, self.task.width) for i in attending)

    @property
    def spilled(self) -> float:
        """Bytes written to and read from temporary files."""
        return 0.0 if self.plan is None else self.batch * self.plan.spilled

    def __str__(self) -> str:
        """One line: how many strips, how much memory, how much slower than in one piece."""
        size = f"{self.batch} of {size_of(self.task)}" if self.batch > 1 else size_of(self.task)
        if self.plan is None:
            return f"{size}: in one piece, about {amount(self.memory)}"
        strips = "1 strip" if self.strips == 1 else f"{self.strips} strips"
        slower = self.plan.seconds / one_piece_seconds(self.task) - 1
        return f"{size}: {strips}, about {amount(self.memory)}, {max(0, slower):.0%} slower than in one piece"


def whole_bytes(task: Task, batch: int) -> int:
    """What a batch takes in one piece, all told."""
    return task.held + task.result + batch * one_piece_bytes(replace(task, held=0, result=0))


def size_of(task: Task) -> str:
    """The picture's width and height in pixels."""
    width, height = pixels(task)
    return f"{width}×{height}"


def pixels(task: Task) -> tuple[int, int]:
    """(width, height), padded to whole cells."""
    zoom = max(0, *(step.zoom for step in task.line.steps))
    return task.width << zoom, task.height << zoom


def duration(seconds: float) -> str:
    """Seconds for people: 0.3 s, 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def amount(count: float) -> str:
    """Bytes for people: 1.4 GiB, 800 MiB."""
    if count < 1000 * 2**20:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**30:,.1f} GiB" if count < 100 * 2**30 else f"{count / 2**30:,.0f} GiB"

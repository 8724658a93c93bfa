"""A plan gone through strip by strip, with an allocator that only counts. For sizes beyond a machine. No torch.

It knows what the runner does (`running`), not what the planner thinks of it:
windows grow and shrink as spans say, chunks of stored rows come and go.
"""

from __future__ import annotations

from vaekit.engine.strips.planning import Pass, Plan
from vaekit.engine.strips.task import Task
from vaekit.engine.strips.working import own_bytes, slab_bytes


def simulated(plan: Plan) -> int:
    """Bytes at the peak."""
    run = _Run(plan)
    last_use = plan.last_use()
    for i, one in enumerate(plan.passes):
        run.go(one, frozenset(step for step, use in last_use.items() if use == i))
    return run.peak


class _Run:
    def __init__(self, plan: Plan):
        self._plan, self._task = plan, plan.task
        self._chunks: dict[int, list[int]] = {}
        """Of each kept step the bytes of its chunks; those let go are 0."""
        self._kept = 0
        self.peak = 0

    def go(self, one: Pass, last: frozenset[int]) -> None:
        task, target = one.task, one.sweep.target
        windows = one.sweep.capacities(one.rows)
        fixed = task.overhead + task.held + sum(count * task.row_bytes(step) for step, count in windows.items())
        fixed += sum(task.weight_bytes(step) for step in one.sweep.computed)
        fixed += task.result if self._plan.places[target] == "result" else 0
        if self._plan.places[target] == "keep":
            self._chunks[target] = []
        read = frozenset(one.sweep.read)
        slab = made = points = 0
        for strip in one.sweep.strips(one.rows):
            for span in strip.spans:
                count = span.new[1] - span.new[0]
                if count == 0:
                    continue
                if span.step in read:
                    if span.step in last:
                        self._let_go(span.step, span.new[1])
                    continue
                slab = max(slab, slab_bytes(task, span.step, count))
                points = max(points, task.points_bytes(span.step, count))
                if span.step == target:
                    made = max(made, count * task.row_bytes(target))
                    if target in self._chunks:
                        self._write(target, span.new[1])
                own = own_bytes(task, span.step, count)
                self.peak = max(self.peak, fixed + self._kept + slab + made + points + own)
        for step in last:
            self._kept -= sum(self._chunks.pop(step, []))

    def _write(self, step: int, end: int) -> None:
        rows, height = self._task.chunk_rows(step), _height(self._task, step)
        chunks = self._chunks[step]
        while len(chunks) * rows < end:
            chunks.append(min(rows, height - len(chunks) * rows) * self._task.row_bytes(step))
            self._kept += chunks[-1]

    def _let_go(self, step: int, before: int) -> None:
        chunks = self._chunks.get(step, [])
        whole = len(chunks) if before >= _height(self._task, step) else before // self._task.chunk_rows(step)
        for i in range(min(whole, len(chunks))):  # a spilled one has none
            self._kept -= chunks[i]
            chunks[i] = 0


def _height(task: Task, step: int) -> int:
    return task.line.side(step, task.height)

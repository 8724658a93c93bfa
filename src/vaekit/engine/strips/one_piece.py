"""What a picture takes in one piece, against which strips are measured. Imports no torch."""

from __future__ import annotations

from vaekit.engine.strips.line import ACTIVATED
from vaekit.engine.strips.task import Task


def one_piece_bytes(task: Task) -> int:
    """Bytes at the peak, all told."""
    return _arrays(task) + task.held + task.result + task.overhead


def one_piece_seconds(task: Task) -> float:
    """At the task's rates."""
    steps = range(1, len(task.line))
    moved = sum(_moved(task, step) for step in steps)
    if not task.plain:
        return sum(map(task.seconds, steps)) + moved / task.rates.moved
    attention = sum(task.line.of_attention(step, task.height, task.width) for step in steps)
    others = one_piece_operations(task) - attention
    return others / task.rates.operations + attention / task.rates.attended + moved / task.rates.moved


def one_piece_operations(task: Task) -> float:
    """Multiplications and additions. The plain network first enlarges and then convolves."""
    steps = range(len(task.line))
    if task.plain:
        return sum(task.line.operations_in_one_piece(step, task.height, task.width) for step in steps)
    return sum(task.operations(step) for step in steps)


def _arrays(task: Task) -> int:
    """Of the step that takes most: what others still want, and its own."""
    if task.plain:
        return max(_plain_step(task, step) for step in range(1, len(task.line)))
    uses, alive, most = task.line.last_use(), {0}, 0
    for step in range(1, len(task.line)):
        if task.line.steps[step].kind != "keys":  # done with the queries
            alive.add(step)
        over = {one for one in alive if uses[one] == step}
        others = sum(task.bytes_of(one) for one in alive - {step})
        own = _gpu_step(task, step, over) if task.gpu else _lean_step(task, step, over)
        most = max(most, others + own)
        alive -= over
    heights = {step: task.line.side(step, task.height) for step in range(1, len(task.line))}
    return most + max(task.points_bytes(step, height) for step, height in heights.items())


def _lean_step(task: Task, step: int, over: set[int]) -> int:
    """The source activated, with what lies beyond its edges, and the result where it is not added to what is there.

    over: what ends with this step.
    """
    this = task.line.steps[step]
    source, out = task.bytes_of(this.source), task.bytes_of(step)
    if this.kind == "keys":
        return 0
    if this.kind == "attend":
        return 6 * source
    prepared = (source if this.norm or this.before else 0) + _padded(task, step)
    if task.at_points(step):
        if task.line.padding == "zeros":  # a part at a time
            prepared = min(prepared, ACTIVATED * task.item + 6 * task.row_bytes(this.source))
        prepared += task.weight_bytes(step)
    elif not task.in_place:
        return prepared + 2 * out
    return prepared + (0 if this.residual in over and this.shortcut is None else out)


def _gpu_step(task: Task, step: int, over: set[int]) -> int:
    """Norms write over what ends with them; a convolution is added to its residual afterwards."""
    this = task.line.steps[step]
    source, out = task.bytes_of(this.source), task.bytes_of(step)
    if this.kind == "keys":
        return 0
    if this.kind == "attend":  # queries, keys, values, what is gathered, its projection
        return 5 * source
    written_over = this.norm is not None and this.source in over and this.source != this.residual
    prepared = source if (this.norm or this.before) and not written_over else 0
    summed = 0 if this.residual is None or (this.residual in over and this.shortcut is None) else out
    return prepared + _padded(task, step) + out + summed


def _padded(task: Task, step: int) -> int:
    """Bytes of the source's copies where zeros around it are not left to the convolution."""
    this = task.line.steps[step]
    if this.kind == "point":
        return 0
    copies = {"zeros": int(this.kind == "down" and not this.pad), "circular": 1, "reflect": 2}
    return copies[task.line.padding] * task.bytes_of(this.source)


def _plain_step(task: Task, step: int) -> int:
    """Source, residual, the source activated and once more as the convolution wants it, and the result."""
    this = task.line.steps[step]
    source, out = task.bytes_of(this.source), task.bytes_of(step)
    if this.kind in ("keys", "attend"):
        return 7 * source
    if this.kind == "up":
        return source + 3 * source * 4 if out else 0
    kept = 0 if this.residual in (None, this.source) else task.bytes_of(this.residual or 0)
    copies = 3 if this.norm or this.before else 2
    return kept + copies * source + (2 * out if this.shortcut else out)


def _moved(task: Task, step: int) -> float:
    """Bytes that a step reads and writes beside its convolution."""
    this = task.line.steps[step]
    source, out = task.bytes_of(this.source), task.bytes_of(step)
    touched = (5.0 if this.norm else 3.0 if this.before else 1.0) * source + 2.0 * out
    touched += out if this.normed else 0
    if task.plain:  # added afterwards; rearranged for the convolution and back
        touched += 3.0 * out if this.residual is not None else 0.0
        touched += 2.0 * source * (4 if this.kind == "up" else 1) + 2.0 * out
    return touched

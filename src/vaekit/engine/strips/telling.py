"""A plan in words. Imports no torch."""

from __future__ import annotations

from vaekit.engine.strips.planning import Plan, Task, one_piece_seconds


def describe(plan: Plan) -> str:
    """One line: how many strips, how much memory, how much slower than one piece."""
    passes = "strip" if plan.strips == 1 else "strips"
    return f"{size_of(plan.task)}: {plan.strips} {passes}, about {amount(plan.memory)}, {_slower(plan)}"


def size_of(task: Task) -> str:
    """The picture's width and height in pixels."""
    zooms = {step.zoom for step in task.line.steps}
    zoom = max(zooms) if max(zooms) > 0 else 0
    return f"{task.width << zoom}×{task.height << zoom}"


def amount(count: float) -> str:
    """Bytes for people: 1.4 GiB, 800 MiB."""
    if count < 1000 * 2**20:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**30:,.1f} GiB" if count < 100 * 2**30 else f"{count / 2**30:,.0f} GiB"


def _slower(plan: Plan) -> str:
    percent = round(100 * (plan.seconds / one_piece_seconds(plan.task) - 1))
    if abs(percent) < 1:
        return "as fast as in one piece"
    return f"{abs(percent)}% {'slower' if percent > 0 else 'faster'} than in one piece"

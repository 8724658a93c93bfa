"""What a run tells while it goes: log.csv, and the curves drawn from it."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

from vaekit.errors import OutputError

log = logging.getLogger("vaekit")

EVERY = 20
"""Steps of which the log keeps one line: their means."""


class Journal:
    """log.csv gains a line every 20 steps and after each sample sheet; what a stop left beyond `step` is cut off."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "log.csv"
        self.curves = folder / "curves.png"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if row.get("step") and int(row["step"]) <= step]
        self._pending: list[dict[str, float]] = []
        self._since = time.monotonic()

    def step(self, step: int, numbers: dict[str, float]) -> None:
        self._pending.append(numbers)
        if step % EVERY:
            return
        now = time.monotonic()
        names = self._pending[-1]
        means = {name: sum(n.get(name, 0.0) for n in self._pending) / len(self._pending) for name in names}
        seconds = (now - self._since) / len(self._pending)
        self.rows.append({"step": step, "seconds": round(seconds, 3), **{k: round(v, 6) for k, v in means.items()}})
        self._pending, self._since = [], now
        self._write()

    def sample(self, step: int, measured: dict[str, float]) -> None:
        """What was measured on the held-out pictures at a step, and the curves anew."""
        self.rows.append({"step": step, **{f"held_out_{k}": round(v, 4) for k, v in measured.items()}})
        self._write()
        log.info("step %d: %s on pictures held out", step, ", ".join(f"{k} {v:.3f}" for k, v in measured.items()))
        self._draw()
        self._since = time.monotonic()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        part = self.path.with_name("log.csv.part")
        try:
            with part.open("w", newline="") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(self.rows)
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: not written: {error.strerror}; the last saved state is kept") from error

    def _draw(self) -> None:
        """A small picture for each column, over the steps."""
        names = [n for n in dict.fromkeys(n for row in self.rows for n in row) if n not in ("step", "seconds")]
        if not names:
            return
        try:
            from matplotlib.figure import Figure
        except ImportError:
            log.info("%s not drawn: matplotlib is not installed (pip install vaekit[train])", self.curves.name)
            return
        figure = Figure(figsize=(12, 3 * ((len(names) + 2) // 3)), layout="constrained")
        for place, name in enumerate(names, 1):
            points = [(int(row["step"]), float(row[name])) for row in self.rows if row.get(name) not in (None, "")]
            axes = figure.add_subplot((len(names) + 2) // 3, 3, place, title=name, xlabel="step")
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", linewidth=1)
            if name == "loss":
                axes.set_yscale("log")
        try:
            figure.savefig(self.curves, dpi=80)
        except OSError as error:
            raise OutputError(f"{self.curves}: not written: {error.strerror}") from error

"""The loop itself, in plain sight: draw a batch, take a step, keep a log, save.

A run lives in its folder: `state.pt` is written every few minutes, and the same
call goes on from there to the same losses as without the stop. `log.csv`,
`curves.png` and `samples.png` grow beside it (journal.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vaekit.errors import FileError
from vaekit.train.data import Crops
from vaekit.train.journal import Journal
from vaekit.train.run import Phase, Run

Draw = Callable[[Phase, np.random.Generator], Any]
Sheet = Callable[[Run, Path], dict[str, float]]


def train(run: Run, draw: Draw, folder: Path, *, sheet: Sheet) -> dict[str, float]:
    """Run to the last step, from the saved state if there is one.

    draw: a batch for a phase. sheet: draws the sample sheet to a path and
    measures what is held out, which is returned for the last step. Raises NumericsError (the last saved state is
    kept), OutputError (disk full), FileError (the folder cannot be written).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from error
    run.resume(folder)
    journal = Journal(folder, run.step)
    saved = sampled = time.monotonic()
    while current := run.phase():
        numbers = run.train_step(draw(current[0], run.rng))
        journal.step(run.step, numbers)
        now = time.monotonic()
        if now - saved > run.recipe.save_seconds:
            run.save(folder)
            saved = now
        if now - sampled > run.recipe.sample_seconds:
            journal.sample(run.step, sheet(run, folder / "samples.png"))
            sampled = now
    run.save(folder)
    measured = sheet(run, folder / "samples.png")
    journal.sample(run.step, measured)
    return measured


def draw_crops(crops: Crops) -> Draw:
    """Batches [B, 3, side, side] in [-1, 1], of one of the phase's sizes each."""

    def draw(phase: Phase, rng: np.random.Generator) -> Tensor:
        side, count = phase.crops[rng.integers(len(phase.crops))]
        return crops.batch(count, side, phase.zoom, rng)

    return draw

"""A folder of pictures, a small recipe, and a run on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_KL
from PIL import Image

from vaekit.train.run import Phase
from vaekit.train.vae import VaeRecipe, VaeRun

PHASES = (
    Phase(steps=4, crops=((32, 2),), zoom=(0.8, 1.5)),
    Phase(steps=2, crops=((24, 2), (40, 1)), rate=0.5, decay=1.0),
)
RECIPE = VaeRecipe(network=SMALL_KL, phases=PHASES, warmup=2, save_seconds=0.0, smallest=40)
CPU = torch.device("cpu")


def recipe(**changes: object) -> VaeRecipe:
    """RECIPE with some of its settings changed, checked again."""
    return VaeRecipe(**(RECIPE.model_dump() | changes))


def vae_run(**changes: object) -> VaeRun:
    return VaeRun(recipe(**changes), CPU)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"

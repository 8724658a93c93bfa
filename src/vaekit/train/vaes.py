"""From a recipe and pictures to a trained VAE on disk."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vaekit.engine.placement import place
from vaekit.errors import FileError, OptionError
from vaekit.families import Family
from vaekit.files import check_target
from vaekit.loading import load
from vaekit.train.data import Crops
from vaekit.train.export import measure_family, write_folder
from vaekit.train.loop import draw_crops, train
from vaekit.train.run import Run
from vaekit.train.sheets import reconstruction_sheet
from vaekit.train.tiny import TinyRecipe, TinyRun
from vaekit.train.vae import VaeRecipe, VaeRun

log = logging.getLogger("vaekit")

Data = Sequence[tuple[Path, float]]

MEASURED = 64
MEASURED_SIDE = 256


def train_vae(
    recipe: Path,
    data: Sequence[tuple[Path, float]],
    folder: Path,
    out: Path,
    *,
    device: str = "auto",
    force: bool = False,
) -> dict[str, float]:
    """Train by a recipe (kind "vae" or "tiny") and write the VAE in the diffusers layout.

    data: folders of pictures, each with its share of the crops. folder: where
    the run keeps its state, log and sheets; the same call goes on there after a
    stop. Returns the held-out measures. Raises FileError, OptionError,
    PictureError, OutputError, NumericsError.
    """
    settings = read_recipe(recipe)
    _check_out(out, force)
    where = place(device).device
    crops = Crops(data, smallest=settings.smallest)
    run: VaeRun | TinyRun = VaeRun(settings, where) if isinstance(settings, VaeRecipe) else TinyRun(settings, where)
    sheet = reconstruction_sheet(crops, reconstruct)
    measured = train(run, draw_crops(crops), folder, sheet=sheet)
    run.average.cpu().half().float()
    write_folder(run.average, _family(run, settings, data, out.name), out, force=force)
    return measured


def read_recipe(path: Path) -> VaeRecipe | TinyRecipe:
    """A recipe of either kind. Raises FileError, OptionError."""
    try:
        kind = tomllib.loads(path.read_text("utf-8")).get("kind", "vae")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FileError(f"{path}: not valid TOML: {error}") from error
    if kind not in ("vae", "tiny"):
        raise OptionError(f"{path}: kind is vae or tiny, not {kind!r}")
    return TinyRecipe.read(path) if kind == "tiny" else VaeRecipe.read(path)


def reconstruct(run: Run, x: Tensor) -> Tensor:
    """What the average of the weights makes of x [B, 3, H, W]."""
    network = run.average
    assert isinstance(run, VaeRun | TinyRun)
    return network.decode(network.moments(x).mean)  # type: ignore[operator]


def _check_out(out: Path, force: bool) -> None:
    """Refuse now what could not be written after hours."""
    if out.exists() and not out.is_dir():
        raise OptionError(f"{out}: a file; --out names the folder of the new VAE")
    check_target(out / "config.json", force=force)


def _family(run: VaeRun | TinyRun, recipe: VaeRecipe | TinyRecipe, data: Data, name: str) -> Family:
    """That of the VAE it started from where the latents stayed, else what the first folder tells."""
    if recipe.start is not None and (isinstance(recipe, TinyRecipe) or recipe.train == "decoder"):
        return load(recipe.start).family
    crops, rng = Crops(data[:1]), np.random.default_rng(0)
    batches = [crops.batch(8, MEASURED_SIDE, (1.0, 1.0), rng) for _ in range(MEASURED // 8)]
    assert isinstance(run, VaeRun)
    return measure_family(run.average, batches, name)

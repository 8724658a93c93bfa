"""Training: small, but the real loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_KL
from PIL import Image

import vaekit
from vaekit.errors import NumericsError, OptionError, PictureError
from vaekit.train import vae as training
from vaekit.train.export import latent_statistics, write_folder
from vaekit.train.muon import orthogonalise
from vaekit.train.vae import Phase, Run, Settings, reconstruction_loss, train

PHASES = (
    Phase(steps=4, crops=((32, 2),), zoom=(0.8, 1.5)),
    Phase(steps=2, crops=((24, 2), (40, 1)), rate=0.5, decay=1.0),
)
SETTINGS = Settings(network=SMALL_KL, phases=PHASES, warmup=2, save_seconds=0.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(SETTINGS, pictures, tmp_path / "whole")
    step = Run.train_step

    def stopped(self: Run, x: torch.Tensor) -> dict[str, float]:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, x)

    monkeypatch.setattr(Run, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, pictures, tmp_path / "parts")
    monkeypatch.setattr(Run, "train_step", step)
    parts = train(SETTINGS, pictures, tmp_path / "parts")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name
        assert torch.equal(parts.average.state_dict()[name], whole.average.state_dict()[name]), name


def test_training_learns(pictures: Path, tmp_path: Path) -> None:
    run = Run(SETTINGS.model_copy(update={"phases": (Phase(steps=40, crops=((32, 2),)),)}))
    x = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 32) * 2 - 1
    losses = [run.train_step(x)["loss"] for _ in range(40)]
    assert losses[-1] < losses[0] / 3


def test_the_rate_rises_stays_and_falls_in_each_phase() -> None:
    run = Run(SETTINGS)
    rates = []
    for run.step in range(7):
        rates.append(run.learning_rate())
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(NumericsError, match="step 0"):
        Run(SETTINGS).train_step(torch.full((2, 3, 32, 32), float("nan")))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(PictureError, match="no pictures"):
        train(SETTINGS, tmp_path / "data", tmp_path / "run")


def test_a_recipe_with_a_mistake_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("phases = []\nlearning = 3\n[network]\nlatent_channels = 4\n")
    with pytest.raises(OptionError, match="learning"):
        Settings.read(tmp_path / "bad.toml")


def test_every_recipe_reads_and_its_network_builds() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert recipes
    for recipe in recipes:
        assert training.build(Settings.read(recipe).network).config.latent_channels > 0


def test_an_error_of_colour_costs_more_than_one_of_grey() -> None:
    x = torch.zeros(1, 3, 4, 4)
    grey = x + 0.1
    colour = x + torch.tensor([0.1, -0.1, 0.1]).view(1, 3, 1, 1)
    assert reconstruction_loss(colour, x, 0.1, 1.0) > reconstruction_loss(grey, x, 0.1, 1.0)
    assert torch.allclose(reconstruction_loss(colour, x, 0.1, 0.0), reconstruction_loss(grey, x, 0.1, 0.0))


@pytest.mark.parametrize("shape", [(8, 30), (30, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_what_is_written_loads_and_its_latents_have_unit_spread(tmp_path: Path) -> None:
    model = training.build(SMALL_KL)
    crops = [torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1]
    model = model.half().float()
    scaling, factors, bias = latent_statistics(model, crops)
    assert (factors.shape, bias.shape) == ((4, 3), (3,))
    write_folder(model, scaling, tmp_path / "vae")
    vae = vaekit.load(tmp_path / "vae")
    assert vae.encode(crops[0]).tensor.std().item() == pytest.approx(1, abs=0.01)


def test_what_is_written_is_what_diffusers_reads(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    model = training.build(SMALL_KL).half().float()
    write_folder(model, 0.5, tmp_path / "vae")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False).eval()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(theirs.encode(x).latent_dist.mean, model.moments(x).mean, atol=1e-5)
    assert theirs.config.scaling_factor == 0.5

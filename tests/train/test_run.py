"""Runs: the exact step after a stop, the rate, what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train.conftest import CPU, PHASES, RECIPE, recipe, vae_run

from vaekit.errors import FileError, NumericsError, OptionError, OutputError
from vaekit.networks.config import KLConfig
from vaekit.train.data import Crops
from vaekit.train.loop import draw_crops, train
from vaekit.train.run import Phase, Run
from vaekit.train.vae import VaeRecipe, VaeRun


def go(data: Path, folder: Path, settings: VaeRecipe = RECIPE) -> VaeRun:
    run = VaeRun(settings, CPU)
    train(run, draw_crops(Crops([(data, 1.0)])), folder, sheet=lambda run, path: {"psnr": 20.0})
    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, {"adversarial": 0.5, "adversarial_from": 2}])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, changes: dict[str, float]
) -> None:
    settings = recipe(precision=precision, losses=changes)
    whole = go(pictures, tmp_path / "whole", settings)
    step = Run.train_step

    def stopped(self: Run, x: torch.Tensor) -> dict[str, float]:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, x)

    monkeypatch.setattr(Run, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(pictures, tmp_path / "parts", settings)
    monkeypatch.setattr(Run, "train_step", step)
    parts = go(pictures, tmp_path / "parts", settings)
    for name, module in whole.modules().items():
        other = parts.modules()[name].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(other[key], value), (name, key)


def test_training_learns() -> None:
    run = vae_run(phases=(Phase(steps=40, crops=((32, 2),)),))
    x = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 32) * 2 - 1
    losses = [run.train_step(x)["loss"] for _ in range(40)]
    assert losses[-1] < losses[0] / 3


def test_the_rate_rises_stays_and_falls_in_each_phase() -> None:
    run = vae_run()
    rates = []
    for run.step in range(7):
        rates.append(run.learning_rate())
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(NumericsError, match="step 0"):
        vae_run().train_step(torch.full((2, 3, 32, 32), float("nan")))


def test_the_state_before_stays_where_a_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = vae_run()
    run.save(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    def full(*_: object) -> None:
        (tmp_path / "state.pt.part").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        run.save(tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("content", [b"", b"not a state", None])
def test_a_state_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        vae_run(network=KLConfig(latent_channels=3, encoder_channels=(32,), decoder_channels=(32,))).save(tmp_path)
    else:
        (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(FileError, match="not the state of this recipe") as caught:
        vae_run().resume(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_folder_that_is_a_file_is_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(FileError, match="run"):
        go(pictures, tmp_path / "run")


def test_a_recipe_with_a_mistake_names_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("learning = 3\n[[phases]]\nsteps = 1\ncrops = [[8, 1]]\n[network]\nlatent_channels = 4\n")
    with pytest.raises(OptionError, match="learning"):
        VaeRecipe.read(path)
    path.write_text("phases = [\n")
    with pytest.raises(FileError, match="TOML"):
        VaeRecipe.read(path)
    path.write_text("phases = []\nstart = 'mini'\n")
    with pytest.raises(OptionError, match="phases"):
        VaeRecipe.read(path)


def test_the_log_goes_on_where_the_state_was(pictures: Path, tmp_path: Path) -> None:
    settings = recipe(phases=(Phase(steps=45, crops=((16, 1),)),), save_seconds=1e9)
    go(pictures, tmp_path / "run", settings)
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "20", "40", "45"]
    assert rows[0].split(",")[-1] == "held_out_psnr"
    assert rows[-1].split(",")[-1] == "20.0"


def test_phases_follow_each_other() -> None:
    run = vae_run()
    run.step = 4
    current = run.phase()
    assert current is not None
    assert current == (PHASES[1], 2)
    run.step = 6
    assert run.phase() is None

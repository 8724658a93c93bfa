"""load: names, halves from two files, and which family a VAE belongs to."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import SMALL_KL, SMALL_TINY, random_state
from safetensors.torch import save_file

import vaekit
from vaekit import assets
from vaekit.checkpoints import identify
from vaekit.errors import FamilyError, FileError, NotAVAEError, OptionError
from vaekit.families import Family, KLShape
from vaekit.loading import find

SHAPE = KLShape(latent_channels=4, downscale=8, quant_conv=True, channels=SMALL_KL.encoder_channels)
LIKE_SD1 = Family(name="like-sd1", latent_channels=4, downscale=8, scaling_factor=0.18215, kl=SHAPE)
LIKE_SDXL = Family(name="like-sdxl", latent_channels=4, downscale=8, scaling_factor=0.13025, kl=SHAPE)


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two families whose tensors look alike, as those of sd1 and sdxl do."""
    known = {family.name: family for family in (LIKE_SD1, LIKE_SDXL)}
    monkeypatch.setattr(identify, "families", lambda: known)


def save_with_spread(path: Path, spread: float) -> Path:
    """A bare VAE file whose raw latents of the sample photos have this standard deviation."""
    state = random_state(SMALL_KL)
    save_file(state, path)
    vae = vaekit.load(path, family=LIKE_SD1)
    raw = torch.cat([vae.encode(photo).tensor.flatten() for photo in assets.sample_photos()]) / LIKE_SD1.scaling_factor
    for name in ("quant_conv.weight", "quant_conv.bias"):
        state[name] = state[name] * (spread / raw.std())
    save_file(state, path)
    return path


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize(("spread", "name"), [(1 / 0.18215, "like-sd1"), (0.9 / 0.13025, "like-sdxl")])
def test_families_with_the_same_tensors_are_told_apart_by_measuring(
    spread: float, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_with_spread(tmp_path / "bare.safetensors", spread)
    with caplog.at_level(logging.INFO, logger="vaekit"):
        assert vaekit.load(path).family.name == name
    assert "sample photos" in caplog.text


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize("spread", [(1 / 0.18215 + 1 / 0.13025) / 2, 0.01, 1000.0])
def test_a_measurement_that_does_not_decide_asks(spread: float, tmp_path: Path) -> None:
    path = save_with_spread(tmp_path / "bare.safetensors", spread)
    with pytest.raises(FamilyError, match="--family"):
        vaekit.load(path)
    assert vaekit.load(path, family=LIKE_SDXL).family == LIKE_SDXL


def test_a_vae_of_no_known_shape_asks_for_its_family(tmp_path: Path) -> None:
    save_file(random_state(SMALL_KL), tmp_path / "own.safetensors")
    with pytest.raises(FamilyError, match="scaling factor"):
        vaekit.load(tmp_path / "own.safetensors")
    assert vaekit.load(tmp_path / "own.safetensors", family="sdxl").family.scaling_factor == 0.13025


def test_a_family_that_cannot_be_is_refused(tmp_path: Path) -> None:
    save_file(random_state(SMALL_KL), tmp_path / "own.safetensors")
    with pytest.raises(FamilyError, match="16"):
        vaekit.load(tmp_path / "own.safetensors", family="sd3")


def test_a_family_against_the_evidence_is_taken_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(random_state(SMALL_KL), tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"scaling_factor": 0.13025}))
    with caplog.at_level(logging.WARNING, logger="vaekit"):
        assert vaekit.load(tmp_path, family="sd1").family.name == "sd1"
    assert "config.json" in caplog.text


def test_a_latent_space_of_its_own_keeps_its_numbers(tmp_path: Path) -> None:
    """EQ-SDXL-VAE has its own scale, shift, means and deviations; a default would wash its colours out."""
    save_file(random_state(SMALL_KL), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [1.0, 2.0, 4.0, 8.0]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    family = vaekit.load(tmp_path).family
    raw = torch.tensor([1.0, 4.0, 7.0, 12.0]).view(1, 4, 1, 1)
    assert family.scale(raw).flatten().tolist() == pytest.approx([0.0, 0.5, 0.5, 0.5])
    assert torch.allclose(family.unscale(family.scale(raw)), raw)


def test_taesd_loads_from_its_two_files(tmp_path: Path) -> None:
    state = random_state(SMALL_TINY)
    for half in ("encoder", "decoder"):
        part = {k.removeprefix(f"{half}."): v for k, v in state.items() if k.startswith(half)}
        torch.save(part, tmp_path / f"taesd_{half}.pth")
    by_files = vaekit.load(tmp_path / "taesd_encoder.pth", decoder=tmp_path / "taesd_decoder.pth")
    by_folder = vaekit.load(tmp_path)
    alone = vaekit.load(tmp_path / "taesd_decoder.pth")
    assert by_files.fingerprint == by_folder.fingerprint
    assert (by_files.can_encode, by_files.can_decode) == (True, True)
    assert (alone.can_encode, alone.can_decode) == (False, True)
    assert by_files.family.name == "sd1"
    with pytest.raises(NotAVAEError, match="no encoder"):
        vaekit.load(tmp_path / "taesd_decoder.pth", decoder=tmp_path / "taesd_encoder.pth")


def test_names_are_exact_and_near_ones_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEKIT_MODELS", str(tmp_path))
    if "mini" not in assets.bundled_models():
        pytest.skip("no model is bundled")
    assert find("mini") == assets.model_folder("mini")
    with pytest.raises(FileError, match="did you mean mini"):
        find("minni")
    with pytest.raises(FileError, match="neither a file"):
        find("min")
    with pytest.raises(FileError, match="vae pull ft-mse"):
        find("ft-mse")


def test_padding_is_refused_where_it_would_do_nothing(tmp_path: Path) -> None:
    save_file(random_state(SMALL_TINY), tmp_path / "taesd.safetensors")
    with pytest.raises(OptionError, match="padding"):
        vaekit.load(tmp_path / "taesd.safetensors", padding="reflect")

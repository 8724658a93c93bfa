"""Families: numbers that fit, names that are exact, scaling that inverts."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_KL
from pydantic import ValidationError

import vaekit
from vaekit import folders
from vaekit.errors import FamilyError, FileError
from vaekit.families import Family, families, family
from vaekit.networks.kl import KL
from vaekit.train.export import measure_family, write_folder


@pytest.mark.parametrize("name", families())
def test_unscale_inverts_scale(name: str) -> None:
    chosen = family(name)
    raw = 5 * torch.randn(1, chosen.latent_channels, 2, 2, dtype=torch.float64)
    assert torch.allclose(chosen.unscale(chosen.scale(raw)), raw)


@pytest.mark.parametrize(
    ("name", "raw", "scaled"),
    [
        ("sd1", 2.0, 2.0 * 0.18215),
        ("sdxl", 2.0, 2.0 * 0.13025),
        ("sd3", 2.0, (2.0 - 0.0609) * 1.5305),
        ("flux1", 2.0, (2.0 - 0.1159) * 0.3611),
        ("playground25", 2.0, (2.0 + 1.6574) * 0.5 / 8.4927),
        ("flux2", 2.0, 2.0),
    ],
)
def test_scaling_is_that_of_the_published_models(name: str, raw: float, scaled: float) -> None:
    chosen = family(name)
    tensor = torch.full((1, chosen.latent_channels, 1, 1), raw)
    assert chosen.scale(tensor)[0, 0, 0, 0].item() == pytest.approx(scaled, rel=1e-6)


@pytest.mark.parametrize(
    "numbers",
    [
        {"scaling_factor": 0.0},
        {"scaling_factor": float("nan")},
        {"mean": (0.0,) * 4},
        {"mean": (0.0,) * 4, "std": (1.0, 1.0, 1.0, 0.0)},
        {"mean": (0.0,) * 3, "std": (1.0,) * 3},
        {"preview": ((1.0, 0.0, 0.0),)},
        {"latent_channels": 0},
        {"unknown": 1},
    ],
)
def test_numbers_that_do_not_fit_make_no_family(numbers: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Family.model_validate({"name": "odd", "latent_channels": 4, "downscale": 8} | numbers)


def test_a_space_is_its_name_and_numbers() -> None:
    sd1 = family("sd1")
    assert sd1.same_space(sd1.model_copy(update={"title": "another", "preview": None}))
    assert not sd1.same_space(sd1.model_copy(update={"scaling_factor": 0.2}))
    assert not sd1.same_space(family("sdxl"))


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(FamilyError, match=r"did you mean .*sdxl"):
        family("SD-XL")


# A user's own file


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.toml"
    monkeypatch.setenv("VAEKIT_FAMILIES", str(path))
    return path


OWN = "[mine]\nlatent_channels = 4\ndownscale = 8\nscaling_factor = 0.5\n"


def test_an_own_file_adds_families(own: Path) -> None:
    own.write_text(OWN)
    assert family("mine").scaling_factor == 0.5
    assert list(families())[-1] == "mine"
    assert family("sd1").title == "Stable Diffusion 1.x and 2.x"


def test_an_own_file_in_the_configuration_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAEKIT_FAMILIES", raising=False)
    monkeypatch.setattr(folders, "config", lambda: tmp_path)
    assert "mine" not in families()
    (tmp_path / "families.toml").write_text(OWN)
    assert family("mine").downscale == 8


def test_the_numbers_of_a_shipped_family_cannot_be_changed(own: Path) -> None:
    own.write_text('[sdxl]\ntitle = "Mine"\n\nscaling_factor = 0.18215\n')
    with pytest.raises(FileError, match=re.escape(f"{own}:4: [sdxl] scaling_factor: sdxl ships with vaekit")):
        families()


def test_what_is_no_part_of_the_space_can_be_changed_in_a_shipped_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = family("sdxl")
    own = tmp_path / "own.toml"
    monkeypatch.setenv("VAEKIT_FAMILIES", str(own))
    own.write_text('[sdxl]\ntitle = "Mine"\npreview_bias = [0, 0, 0]\nscaling_factor = 0.13025\n')
    changed = family("sdxl")
    assert changed == shipped.model_copy(update={"title": "Mine", "preview_bias": (0.0, 0.0, 0.0)})
    assert changed.same_space(shipped)


MISTAKES = {
    "no channels": ("[x]\ndownscale = 8\n", 1, "latent_channels"),
    "no number": ("[x]\nlatent_channels = 4\ndownscale = 8\nscaling_factor = 'one'\n", 4, "scaling_factor"),
    "a scale of zero": ("\n[x]\nlatent_channels = 4\ndownscale = 8\nscaling_factor = 0\n", 2, "scale"),
    "a key that is none": (OWN + "colour = 1\n", 5, "colour"),
    "a key in kl": (OWN + "[mine.kl]\nlatent_channels = 4\ndownscale = 'x'\n", 7, "kl.downscale"),
    "a preview of three channels": (OWN + "preview = [[1, 1, 1], [1, 1, 1], [1, 1, 1]]\n", 1, "preview"),
    "a network of other channels": (
        OWN + "kl = { latent_channels = 8, downscale = 8, quant_conv = true, channels = [32] }\n",
        1,
        "kl",
    ),
    "a tiny one of other channels": (OWN + "tiny = 16\n", 1, "tiny"),
    "a path as name": ('["../x"]\nlatent_channels = 4\ndownscale = 8\n', 1, "letters"),
    "a name with a dot": ("[x.5]\nlatent_channels = 4\ndownscale = 8\n", 1, "quotes"),
    "no table": ("x = 1\n", 1, "table"),
    "no TOML": ("[x\n", 1, "TOML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_own_file_is_told_with_file_and_line(mistake: str, own: Path) -> None:
    text, line, word = MISTAKES[mistake]
    own.write_text(text)
    with pytest.raises(FileError) as raised:
        families()
    assert str(raised.value).startswith(f"{own}:{line}: "), raised.value
    assert word in str(raised.value)


def test_an_own_file_that_is_not_there_is_an_error(own: Path) -> None:
    with pytest.raises(FileError, match=re.escape(str(own))):
        families()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as training writes it, of a latent space of its own."""
    model = KL(replace(SMALL_KL, decoder_blocks=2))
    measured = measure_family(model, [torch.rand(1, 3, 64, 64) * 2 - 1], "my-space")
    write_folder(model, measured, tmp_path / "trained")
    return tmp_path / "trained"


def test_the_family_that_training_wrote_can_be_pasted_into_an_own_file(
    trained: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEKIT_FAMILIES", os.devnull)
    unknown = vaekit.load(trained).family
    monkeypatch.setenv("VAEKIT_FAMILIES", str(own))
    own.write_text(OWN + (trained / "family.toml").read_text("utf-8"))
    found = vaekit.load(trained).family
    assert (unknown.name.partition("-")[0], found.name) == ("custom", "my-space")
    assert found.scaling_factor == unknown.scaling_factor
    assert found.preview is not None


def test_a_pasted_family_is_told_by_its_name_where_there_is_no_configuration(trained: Path, own: Path) -> None:
    own.write_text((trained / "family.toml").read_text("utf-8"))
    weights = trained / "diffusion_pytorch_model.safetensors"
    alone = weights.rename(trained.parent / "alone.safetensors")
    assert vaekit.load(alone).family.name == "my-space"


def test_a_family_with_a_known_ones_numbers_does_not_make_that_one_unclear(own: Path) -> None:
    own.write_text("[mine]\nlatent_channels = 4\ndownscale = 8\nscaling_factor = 0.63732\n")
    assert vaekit.load("mini").family.name == "mini"

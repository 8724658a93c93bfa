"""Families: numbers that fit, names that are exact, scaling that inverts."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from vaekit.errors import FamilyError
from vaekit.families import Family, families, family


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

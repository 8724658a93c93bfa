"""Statistics of latents, and the warnings: that they come, and that they stay away."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.families import Family, families, family
from vaekit.latents import Latents
from vaekit.latents.stats import summary


def latents_of(tensor: torch.Tensor, f: Family | str = "sd1") -> Latents:
    f = family(f) if isinstance(f, str) else f
    return Latents(tensor, f, (tensor.shape[3] * f.downscale, tensor.shape[2] * f.downscale))


def good(name: str, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, family(name).latent_channels, 16, 16, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", families())
def test_good_latents_have_no_warning(name: str) -> None:
    assert summary(latents_of(good(name), name)).warnings == ()


@pytest.mark.parametrize("name", ["sd1", "sdxl", "playground25", "upscaler4x", "flux1"])
def test_raw_latents_are_told_as_unscaled(name: str) -> None:
    raw = family(name).unscale(good(name))
    (warning,) = summary(latents_of(raw, name)).warnings
    assert "unscaled" in warning and f"where {name} has about 1" in warning


@pytest.mark.parametrize("name", ["sd1", "sdxl", "upscaler4x", "flux1"])
def test_latents_scaled_twice_are_told(name: str) -> None:
    (warning,) = summary(latents_of(family(name).scale(good(name)), name)).warnings
    assert "scaled twice" in warning


@pytest.mark.parametrize(("taken", "really"), [("flux1", "sd3"), ("sd1", "playground25"), ("sd3", "flux1")])
def test_raw_latents_scaled_as_another_family_are_told(taken: str, really: str) -> None:
    wrong = family(taken).scale(family(really).unscale(good(really)))
    (warning,) = summary(latents_of(wrong, taken)).warnings
    assert "scaled" in warning
    if taken != "flux1":  # as flux1, raw latents of sd3 look like those that were scaled twice
        assert really in warning


def test_a_standard_deviation_that_nothing_explains_is_told_without_a_cause() -> None:
    (warning,) = summary(latents_of(good("sd1") * 1000)).warnings
    assert "wrong scale?" in warning
    (warning,) = summary(latents_of(good("sd1") * 0.001)).warnings
    assert "flat picture" in warning


def test_a_few_values_say_nothing_about_the_scale() -> None:
    assert summary(latents_of(good("sd1")[:1, :, :7, :9] * 0.1)).warnings == ()
    assert summary(latents_of(good("sd1")[:1, :, :8, :8] * 0.1)).warnings != ()


def test_nan_and_infinity_are_counted_told_and_left_out() -> None:
    tensor = good("sd1")
    clean = summary(latents_of(tensor))
    dirty = tensor.clone()
    dirty[0, 1, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    found = summary(latents_of(dirty))
    assert (found.nan, found.inf) == (1, 2)
    assert len(found.warnings) == 1 and "1 NaN and 2 infinite of 2,048" in found.warnings[0]
    assert found.channels[0] == clean.channels[0]
    rest = np.delete(tensor[:, 1].flatten().numpy(), [0, 1, 2])
    assert found.channels[1].std == pytest.approx(rest.std(), rel=1e-12)


def test_a_constant_channel_is_told_by_number() -> None:
    tensor = good("sd1")
    tensor[:, 2] = 0.5
    assert summary(latents_of(tensor)).warnings == ("channel 2: one value everywhere",)


def test_a_single_cell_is_not_called_constant() -> None:
    assert summary(latents_of(torch.zeros(1, 4, 1, 1))).warnings == ()


def test_values_beyond_four_are_a_note_and_no_warning() -> None:
    assert summary(latents_of(good("sd1").clamp(-4, 4))).notes == ()
    tensor = good("sd1").clamp(-4, 4)
    tensor[0, 0, 0, :2] = torch.tensor([4.5, -6.0])
    found = summary(latents_of(tensor))
    assert found.warnings == ()
    assert len(found.notes) == 1 and "2 of 2,048" in found.notes[0] and "blotches" in found.notes[0]
    assert "blotches" not in summary(latents_of(tensor, "sdxl")).notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_taken_in_float64(dtype: torch.dtype) -> None:
    tensor = (torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)) + 1000).to(dtype)
    expected = tensor.double().numpy()
    found = summary(latents_of(tensor))
    assert found.overall.mean == pytest.approx(expected.mean(), rel=1e-13)
    for number, spread in enumerate(found.channels):
        channel = expected[:, number]
        assert spread.std == pytest.approx(channel.std(), rel=1e-12)
        assert (spread.min, spread.max) == (channel.min(), channel.max())


@given(st.lists(st.floats(), min_size=8, max_size=8))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("error")
def test_statistics_of_any_numbers_are_valid_json(values: list[float]) -> None:
    found = summary(latents_of(torch.tensor(values, dtype=torch.float64).view(1, 4, 1, 2)))
    text = json.dumps(found.to_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["shape"] == [1, 4, 1, 2] and read["size"] == [16, 8] and len(read["channels"]) == 4
    finite = [value for value in values if math.isfinite(value)]
    assert read["overall"]["min"] == (min(finite) if finite else None)
    assert read["nan"] + read["inf"] == 8 - len(finite)

"""Winograd's convolution is the convolution, as exactly as the direct sum, at all sizes, margins and seams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import winograd_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaekit.engine.fast import processor, threads, winograd
from vaekit.engine.half import Half, Ration, rows_into, rows_of
from vaekit.engine.strips.budget import Budget
from vaekit.engine.strips.line import LANES, TILES, points_numbers, tiles_at_once
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL

CPU = torch.device("cpu")
SIDES = st.integers(1, 19)
WIDTHS = st.integers(1, 3).map(lambda count: count * LANES)

pytestmark = pytest.mark.skipif(not winograd.available(CPU, torch.float32), reason="llvmlite is not installed")


def taken(count: int) -> Tensor:
    return torch.full((count,), torch.nan)  # nothing may be read that was not written


def kernels(out: int, channels: int, generator: torch.Generator | None = None) -> Tensor:
    """With results as large as five channels give, so that one bound serves for any number."""
    return torch.randn(out, channels, 3, 3, generator=generator) * (5 / channels) ** 0.5


def exactly(x: Tensor, weight: Tensor, bias: Tensor, pad: tuple[int, int]) -> Tensor:
    """Rows [h, w, C], convolved in float64."""
    picture = x.double().permute(2, 0, 1)[None]
    return F.conv2d(picture, weight.double(), bias.double(), padding=pad)[0].permute(1, 2, 0)


@given(
    height=SIDES,
    width=SIDES,
    channels=WIDTHS,
    out=WIDTHS,
    add=st.booleans(),
    relu=st.booleans(),
)
@settings(deadline=None)
def test_it_is_the_convolution(height: int, width: int, channels: int, out: int, add: bool, relu: bool) -> None:
    generator = torch.Generator().manual_seed(height)
    x, there = (torch.randn(height, width, c, generator=generator) for c in (channels, out))
    weight, bias = kernels(out, channels, generator), torch.randn(out, generator=generator)
    result = there.clone() if add else taken(there.numel()).view_as(there)
    winograd.convolve(x, winograd.weights_at_points(weight), bias, result, taken, add=add, relu=relu)
    wanted = exactly(x, weight, bias, (1, 1)) + (there if add else 0)
    torch.testing.assert_close(result.double(), wanted.relu() if relu else wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["threads of its own", "registers of AVX-512"])
def test_other_machines_have_it_too(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "threads of its own":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    else:
        monkeypatch.setattr("vaekit.engine.fast.tiles.rows_in_registers", lambda: 12)
    winograd._kernels.cache_clear()
    x, weight, bias, result = torch.randn(41, 50, 32), kernels(48, 32), torch.randn(48), taken(41 * 50 * 48)
    winograd.convolve(x, winograd.weights_at_points(weight), bias, result.view(41, 50, 48), taken)
    winograd._kernels.cache_clear()
    torch.testing.assert_close(result.view(41, 50, 48).double(), exactly(x, weight, bias, (1, 1)), rtol=1e-4, atol=1e-4)


@given(height=SIDES, width=SIDES, above=st.integers(0, 1), left=st.integers(0, 1), below=st.integers(0, 1))
@settings(deadline=None)
def test_rows_beside_those_asked_for_are_seen(height: int, width: int, above: int, left: int, below: int) -> None:
    x, weight = torch.randn(height + above + below, width + left, 32), kernels(16, 32)
    result = taken(height * width * 16).view(height, width, 16)
    winograd.convolve(x, winograd.weights_at_points(weight), None, result, taken, margin=(above, left))
    wanted = exactly(x, weight, torch.zeros(16), (1, 1))[above : above + height, left:]
    torch.testing.assert_close(result.double(), wanted, rtol=1e-4, atol=1e-4)


@given(height=SIDES, width=SIDES, above=st.integers(0, 2), left=st.integers(0, 2))
@settings(deadline=None)
def test_an_enlargement_is_seen_without_being_made(height: int, width: int, above: int, left: int) -> None:
    x, weight = torch.randn(height + 1, width + 1, 32), kernels(16, 32)
    enlarged = x.repeat_interleave(2, 0).repeat_interleave(2, 1)
    result = taken(4 * height * width * 16).view(2 * height, 2 * width, 16)
    at_points = winograd.weights_at_points(weight)
    winograd.convolve(x, at_points, None, result, taken, margin=(above, left), enlarged=True)
    wanted = exactly(enlarged, weight, torch.zeros(16), (1, 1))[above : above + 2 * height, left : left + 2 * width]
    torch.testing.assert_close(result.double(), wanted, rtol=1e-4, atol=1e-4)


@given(channels=WIDTHS, out=WIDTHS, tiles=st.integers(1, 5000), threads=st.integers(1, 70))
def test_what_threads_work_in_grows_with_the_tiles_and_holds_them(
    channels: int, out: int, tiles: int, threads: int
) -> None:
    room = points_numbers(channels, out, tiles, threads)
    one = -(-tiles_at_once(channels, out, tiles, threads) // TILES) * TILES
    assert 36 * threads * one * (channels + out) <= room <= points_numbers(channels, out, tiles + 1, threads)


@pytest.mark.parametrize("channels", [64, 512])
def test_it_rounds_little(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = F.silu(torch.randn(32, 48, channels, generator=generator))
    wanted, result = exactly(x, weight := kernels(channels, channels, generator), torch.zeros(channels), (1, 1)), x * 0
    winograd.convolve(x, winograd.weights_at_points(weight), None, result, torch.empty)
    assert (result - wanted).std() < 1.2e-6 * wanted.std()  # 1.6 to 2.2 e-6 with 0, ±1 and ±2


@pytest.mark.parametrize("add", [False, True])
def test_numbers_of_bfloat16_are_rounded_once(add: bool) -> None:
    x, weight, bias, there = (
        one.bfloat16() for one in (torch.randn(23, 26, 64), kernels(48, 64), torch.randn(48), torch.randn(23, 26, 48))
    )
    weights = winograd.weights_at_points(weight.contiguous(memory_format=torch.channels_last))
    result = there.clone() if add else torch.full_like(there, torch.nan)
    winograd.convolve(x, weights, bias, result, x.new_empty, add=add)
    wanted = exactly(x, weight, bias, (1, 1)) + (there if add else 0)
    off = (result.view(torch.int16).int() - wanted.bfloat16().view(torch.int16).int()).abs()
    assert (off > 0).float().mean() < 0.01 and torch.allclose(result.double(), wanted, rtol=2**-8, atol=1e-4)


def test_what_is_not_finite_stays_so_in_bfloat16() -> None:
    x = torch.zeros(8, 8, 32, dtype=torch.bfloat16)
    x[4, 4], result = torch.nan, torch.zeros(8, 8, 16, dtype=torch.bfloat16)
    winograd.convolve(x, winograd.weights_at_points(kernels(16, 32).bfloat16()), None, result, x.new_empty)
    assert result[3:6, 3:6].isnan().all()


@pytest.mark.parametrize("way", ["whole", "strips"])
def test_it_runs_what_is_wide_on_many_pixels_of_a_long_run(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = KLConfig(4, (64, 64), (64, 64), encoder_blocks=1, decoder_blocks=1)
    one = Half("decode", config, KL(config).state_dict(), dtype=torch.float32, device=CPU)
    monkeypatch.setattr("vaekit.engine.strips.line.SHORT", 1e9)
    asked: list[torch.Size] = []
    plain = winograd.convolve

    def counted(x: Tensor, weights: Tensor, bias: Tensor | None, out: Tensor, *more: Any, **options: Any) -> None:
        asked.append(out.shape)
        plain(x, weights, bias, out, *more, **options)

    def decoded(side: int) -> Tensor:
        z, out = torch.randn(1, 4, side, side), torch.empty(1, 3, 2 * side, 2 * side)
        ration = None if way == "whole" else Ration(Budget(1 << 40, True), rows=16)
        one.run((1, side, side), rows_of(z), rows_into(out), ration)
        return out - reference.decode(z)

    reference = Half("decode", config, one.weights, dtype=torch.float32, device=CPU, engine="reference")
    monkeypatch.setattr(winograd, "convolve", counted)
    assert decoded(16).abs().max() < 1e-4 and not asked
    assert decoded(64).abs().max() < 1e-4 and asked


def test_in_bfloat16_a_network_comes_as_near_to_float32_as_with_direct_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = KLConfig(4, (32, 64), (32, 64), encoder_blocks=1, decoder_blocks=2)
    torch.manual_seed(1)
    state, z = KL(config).state_dict(), torch.randn(2, 4, 24, 24)
    exact = Half("decode", config, state, dtype=torch.float32, device=CPU, engine="reference").decode(z)
    errors = []
    for direct in (False, True):  # as where the processor multiplies tiles of bfloat16
        monkeypatch.setattr(processor, "multiplies_tiles", lambda direct=direct: direct)
        with winograd_everywhere():
            result = Half("decode", config, state, dtype=torch.bfloat16, device=CPU).decode(z)
        errors.append(float((result - exact).square().mean().sqrt()))
    assert errors[0] != errors[1] and errors[0] < 1.1 * errors[1]


def test_without_llvm_convolutions_are_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not winograd.available(CPU, torch.float32)
    monkeypatch.setattr(winograd, "convolve", None)
    config = KLConfig(4, (32, 32), (32, 32), encoder_blocks=1, decoder_blocks=1)
    one = Half("decode", config, KL(config).state_dict(), dtype=torch.float32, device=CPU)
    with winograd_everywhere():
        assert one.decode(torch.randn(1, 4, 8, 8)).isfinite().all()


def test_where_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not winograd.available(CPU, torch.float16)
    assert not winograd.available(torch.device("cuda"), torch.float32)
    for tiles in (False, True):  # of bfloat16, multiplied by the processor
        monkeypatch.setattr(processor, "multiplies_tiles", lambda tiles=tiles: tiles)
        assert winograd.available(CPU, torch.bfloat16) is not tiles

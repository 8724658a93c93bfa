"""The optimised path gives what the plain network gives, whatever the size, the batch and the padding."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from conftest import random_state, winograd_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vaekit
from vaekit import assets, images
from vaekit.engine.fast import fused, openvino
from vaekit.engine.fast.folding import enlarge, fold
from vaekit.engine.half import Direction, Half
from vaekit.engine.placement import Engine, computes_in_bfloat16
from vaekit.errors import OptionError
from vaekit.networks.config import KLConfig, NetworkConfig, PaddingMode, TinyConfig
from vaekit.networks.kl import KL, ReflectConv2d

# four channels in a group: with fewer, a picture of one cell has no spread to divide by, and rounding decides
KL_NETWORK = KLConfig(4, (16, 16, 32), (16, 32, 32), encoder_blocks=1, decoder_blocks=2, norm_groups=4)
NETWORKS: list[NetworkConfig] = [
    *(replace(KL_NETWORK, padding_mode=padding) for padding in get_args(PaddingMode)),
    replace(KL_NETWORK, encoder_attention=False, decoder_attention=False, quant_conv=False, post_quant_conv=False),
    TinyConfig(4, 16, (1, 1, 2), (1, 2, 1)),
    TinyConfig(4, 16, (1, 1, 2), (1, 2, 1), encoder_pooled=True, decoder_pooled=True),
]
SIDES = st.integers(1, 9)


def half(config: NetworkConfig, direction: Direction, engine: Engine, dtype: torch.dtype = torch.float32) -> Half:
    state = random_state(config)
    return Half(direction, config, state, dtype=dtype, device=torch.device("cpu"), engine=engine)


def noise(batch: int, channels: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def decibels(one: Tensor, other: Tensor, peak: float = 2.0) -> float:
    return float(20 * torch.log10(peak / (one - other).square().mean().sqrt()))


@settings(max_examples=24, deadline=None)
@given(config=st.sampled_from(NETWORKS), batch=st.integers(1, 3), height=SIDES, width=SIDES, winograd=st.booleans())
def test_decoding_is_that_of_the_plain_network(
    config: NetworkConfig, batch: int, height: int, width: int, winograd: bool
) -> None:
    z = noise(batch, 4, height, width)
    with winograd_everywhere(winograd):
        fast = half(config, "decode", "torch").decode(z)
    torch.testing.assert_close(fast, half(config, "decode", "reference").decode(z), rtol=1e-4, atol=2e-5)


@settings(max_examples=24, deadline=None)
@given(config=st.sampled_from(NETWORKS), batch=st.integers(1, 3), height=SIDES, width=SIDES, winograd=st.booleans())
def test_encoding_is_that_of_the_plain_network(
    config: NetworkConfig, batch: int, height: int, width: int, winograd: bool
) -> None:
    x = noise(batch, 3, 4 * height, 4 * width)
    with winograd_everywhere(winograd):
        fast = half(config, "encode", "torch").encode(x)
    plain = half(config, "encode", "reference").encode(x)
    torch.testing.assert_close(fast.mean, plain.mean, rtol=1e-4, atol=2e-5)
    if plain.logvar is not None:
        assert fast.logvar is not None
        torch.testing.assert_close(fast.logvar, plain.logvar, rtol=1e-4, atol=2e-5)


@given(padding=st.sampled_from(get_args(PaddingMode)), height=SIDES, width=SIDES, batch=st.integers(1, 3))
@settings(deadline=None)
def test_folded_enlargement_is_enlargement_and_convolution(
    padding: PaddingMode, height: int, width: int, batch: int
) -> None:
    x = noise(batch, 5, height, width)
    kind = ReflectConv2d(5, 7, 3) if padding == "reflect" else nn.Conv2d(5, 7, 3, padding=1, padding_mode=padding)
    with torch.no_grad():
        plain = kind(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        folded = enlarge(x, fold(kind.weight), kind.bias, padding)
    torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("works", [True, False], ids=["fused", "one after the other"])
@pytest.mark.parametrize("relu", [True, False])
def test_fused_convolutions_are_convolution_addition_and_activation(
    works: bool, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_works", (lambda _: True) if works and fused._works(torch.float32) else lambda _: False)
    x = noise(2, 6, 5, 7).contiguous(memory_format=torch.channels_last)
    into = noise(2, 4, 5, 7).contiguous(memory_format=torch.channels_last)
    weight, bias = noise(4, 6, 3, 3), noise(1, 4, 1, 1).flatten()
    plain = F.conv2d(x, weight, bias, padding=1)
    after = F.relu if relu else (lambda y: y)
    torch.testing.assert_close(fused.convolve(x, weight, bias, pad=(1, 1), relu=relu), after(plain))
    expected = after(into + plain)
    got = fused.add_convolved(into, x, weight, bias, pad=(1, 1), relu=relu)
    torch.testing.assert_close(got, expected)
    assert got.data_ptr() == into.data_ptr()


def test_reference_runs_the_plain_network_and_nothing_else() -> None:
    state, z = random_state(KL_NETWORK), noise(2, 4, 3, 5)
    plain = KL(KL_NETWORK)
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(half(KL_NETWORK, "decode", "reference").decode(z), plain.decode(z))


def test_the_input_is_left_as_it_was() -> None:
    z = noise(1, 4, 3, 5)
    before = z.clone()
    half(KL_NETWORK, "decode", "torch").decode(z)
    assert torch.equal(z, before)


@pytest.mark.parametrize(
    ("name", "dtype"), [("mini", torch.bfloat16), ("mini16", torch.bfloat16), ("mini-tiny", torch.float32)]
)
def test_what_runs_by_default_stays_within_50_decibels_of_float32(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAEKIT_DTYPE")
    if not computes_in_bfloat16():
        pytest.skip("this processor has no bfloat16 instructions, so nothing runs in it by default")
    wide, fast = vaekit.load(name, engine="reference"), vaekit.load(name)
    assert fast.placement.decode_dtype == dtype
    for photo in assets.sample_photos()[:2]:
        pixels = images.read(photo).pixels[:, :, :256, :256]
        latents, rounded = wide.encode(pixels), fast.encode(pixels)
        picture = wide.decode(latents, output="tensor")
        assert decibels(fast.decode(latents, output="tensor"), picture) >= 50
        assert decibels(wide.decode(rounded, output="tensor"), picture) >= 50
        reach = float(latents.tensor.max() - latents.tensor.min())
        assert decibels(rounded.tensor, latents.tensor, reach) >= 50


def test_a_narrow_tiny_network_stays_in_float32_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAEKIT_DTYPE")
    usual, asked = (vaekit.load("mini-tiny", dtype=dtype).placement for dtype in (None, "bfloat16"))
    assert (usual.encode_dtype, usual.decode_dtype) == (torch.float32, torch.float32)
    assert (asked.encode_dtype, asked.decode_dtype) == (torch.bfloat16, torch.bfloat16)


def test_the_engine_is_chosen_told_and_refused() -> None:
    assert "plain network" in vaekit.load("mini", engine="reference").describe()
    assert "plain network" not in vaekit.load("mini", engine="torch").describe()
    with pytest.raises(OptionError, match="reference"):
        vaekit.load("mini", engine="warp")


@pytest.mark.skipif(not openvino.available(), reason="OpenVINO is not installed")
@settings(max_examples=12, deadline=None)
@given(
    config=st.sampled_from([c for c in NETWORKS if not isinstance(c, KLConfig) or c.padding_mode == "zeros"]),
    batch=st.integers(1, 3),
    height=SIDES,
    width=SIDES,
)
def test_openvino_gives_what_the_plain_network_gives(
    config: NetworkConfig, batch: int, height: int, width: int
) -> None:
    z, x = noise(batch, 4, height, width), noise(batch, 3, 4 * height, 4 * width)
    torch.testing.assert_close(
        half(config, "decode", "openvino").decode(z),
        half(config, "decode", "reference").decode(z),
        rtol=1e-4,
        atol=5e-5,
    )
    fast, plain = half(config, "encode", "openvino").encode(x), half(config, "encode", "reference").encode(x)
    torch.testing.assert_close(fast.mean, plain.mean, rtol=1e-4, atol=5e-5)


@pytest.mark.skipif(not openvino.available(), reason="OpenVINO is not installed")
def test_openvino_folds_weights_of_half_precision_in_float32() -> None:
    config = NETWORKS[-2]
    state = {name: tensor.half() for name, tensor in random_state(config).items()}
    z = noise(1, 4, 5, 6)
    fast, plain = (
        Half("decode", config, state, dtype=torch.float32, device=torch.device("cpu"), engine=engine).decode(z)
        for engine in ("openvino", "reference")
    )
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=2e-5)


@pytest.mark.skipif(not openvino.available(), reason="OpenVINO is not installed")
@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("config", [NETWORKS[0], NETWORKS[-1]], ids=["kl", "tiny, pooled"])
def test_openvino_in_int8_is_near_the_plain_network(config: NetworkConfig, direction: Direction) -> None:
    """Each convolution by itself, biases and none, and all together."""
    plain = half(config, direction, "reference")
    x = noise(1, 4 if direction == "decode" else 3, 16, 16)
    (expected,), ranges = openvino.observed(plain.line, plain.bare(), plain.weights, [x])
    reach = float(expected.max() - expected.min())
    for chosen in (*({name: ends} for name, ends in ranges.items()), ranges):
        run = openvino.compiled(plain.line, plain.bare(), plain.weights, torch.float32, chosen)
        found = decibels(run(x), expected, reach)
        assert 30 <= found < 110, chosen


def test_openvino_refuses_what_it_cannot_run() -> None:
    if not openvino.available():
        with pytest.raises(OptionError, match="not installed"):
            vaekit.load("mini", engine="openvino")
        return
    with pytest.raises(OptionError, match="padding"):
        vaekit.load("mini", engine="openvino", padding="reflect")
    assert "OpenVINO" in vaekit.load("mini", engine="openvino").describe()

"""What runs on a GPU gives what the plain network gives: here by its kernels' interpreter, there by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from conftest import random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vaekit
from vaekit import assets, images
from vaekit.engine.fast.gpu import WholeOnGPU
from vaekit.engine.fast.norms import Norms, PlainNorms, installed
from vaekit.engine.half import Half
from vaekit.engine.strips.line import Direction, line
from vaekit.networks.config import KLConfig, NetworkConfig, PaddingMode, TinyConfig

KL_NETWORK = KLConfig(4, (16, 16, 24), (16, 24, 24), encoder_blocks=1, decoder_blocks=2, norm_groups=4)
NETWORKS: list[NetworkConfig] = [
    *(replace(KL_NETWORK, padding_mode=padding) for padding in get_args(PaddingMode)),
    replace(KL_NETWORK, encoder_attention=False, decoder_attention=False, quant_conv=False, post_quant_conv=False),
    TinyConfig(4, 8, (1, 1, 2), (1, 2, 1), encoder_pooled=True, decoder_pooled=True),
]
SIDES = st.integers(1, 9)
CPU, GPU = torch.device("cpu"), torch.device("cuda")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def compare(config: NetworkConfig, direction: Direction, norms: Norms, batch: int, height: int, width: int) -> None:
    plain = Half(direction, config, random_state(config), dtype=torch.float32, device=CPU, engine="reference")
    x = an_input(config, direction, batch, height, width)
    with torch.inference_mode():
        expected, got = plain.whole(x), WholeOnGPU(plain.network, plain.line, norms)(x.clone())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=5e-5)


@settings(max_examples=15, deadline=None)
@given(config=st.sampled_from(NETWORKS), batch=st.integers(1, 3), height=SIDES, width=SIDES)
@pytest.mark.parametrize("direction", get_args(Direction))
def test_the_line_is_the_plain_network(
    direction: Direction, config: NetworkConfig, batch: int, height: int, width: int
) -> None:
    compare(config, direction, PlainNorms(), batch, height, width)


@pytest.mark.skipif(not installed(), reason="Triton is not installed")
@pytest.mark.parametrize("config", [KL_NETWORK, NETWORKS[-1]], ids=["kl", "tiny"])
@pytest.mark.parametrize("direction", get_args(Direction))
def test_and_so_it_is_with_triton(direction: Direction, config: NetworkConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("the kernels are compiled here, for arrays on the GPU")
    from vaekit.engine.fast.kernels import TritonNorms

    compare(config, direction, TritonNorms(), 2, 3, 5)


@on_a_gpu
@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: f"{config.kind}")
def test_a_gpu_gives_what_the_plain_network_gives(direction: Direction, config: NetworkConfig) -> None:
    x, state = an_input(config, direction, 2, 5, 7), random_state(config)
    plain = run(Half(direction, config, state, dtype=torch.float32, device=CPU, engine="reference"), x)
    exact = Half(direction, config, state, dtype=torch.float32, device=GPU)
    for _ in range(3):  # as it is, captured, replayed
        torch.testing.assert_close(run(exact, x), plain, rtol=1e-3, atol=2e-4)
    turned = run(Half(direction, config, state, dtype=torch.float32, device=CPU), -x)
    torch.testing.assert_close(run(exact, -x), turned, rtol=1e-3, atol=2e-4)
    other = Half(direction, config, random_state(config, seed=1), dtype=torch.float32, device=GPU)
    for _ in range(3):
        assert not torch.allclose(run(other, x), plain, atol=1e-3)


@on_a_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["mini", "mini16", "mini-tiny"])
def test_half_precision_on_a_gpu_stays_within_50_decibels(name: str, dtype: str) -> None:
    wide, fast = vaekit.load(name, device="cpu", dtype="float32"), vaekit.load(name, device="cuda", dtype=dtype)
    pixels = images.read(assets.sample_photos()[0]).pixels[:, :, :256, :256]
    latents = wide.encode(pixels)
    picture = wide.decode(latents, output="tensor")
    for _ in range(3):
        off = (fast.decode(latents, output="tensor") - picture).square().mean()
        assert 20 * torch.log10(2 / off.sqrt()) >= 50


@on_a_gpu
def test_what_overflows_float16_on_a_gpu_is_repeated_in_float32() -> None:
    state = random_state(KL_NETWORK)
    state["decoder.conv_out.weight"] = state["decoder.conv_out.weight"] * 1e6
    one = Half("decode", KL_NETWORK, state, dtype=torch.float16, device=GPU)
    for _ in range(3):
        assert torch.isfinite(run(one, an_input(KL_NETWORK, "decode", 1, 4, 4))).all()
    assert one.dtype == torch.float32


def an_input(config: NetworkConfig, direction: Direction, batch: int, height: int, width: int) -> Tensor:
    zoom = 4 if direction == "encode" else 1
    shape = (batch, line(config, direction).steps[0].channels, zoom * height, zoom * width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def run(one: Half, x: Tensor) -> Tensor:
    return (one.decode(x) if one.direction == "decode" else one.encode(x).mean).cpu()

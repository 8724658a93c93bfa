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


def compare(config: NetworkConfig, direction: Direction, norms: Norms, batch: int, height: int, width: int) -> None:
    plain = Half(
        direction,
        config,
        random_state(config),
        dtype=torch.float32,
        device=torch.device("cpu"),
        engine="reference",
    )
    given = line(config, direction)
    zoom = 4 if direction == "encode" else 1
    shape = (batch, given.steps[0].channels, zoom * height, zoom * width)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = plain.whole(x), WholeOnGPU(plain.network, given, norms)(x.clone())
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

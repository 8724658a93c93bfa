"""Attention by loops of our own is attention, for any number of queries and keys, in float32 and pairs of bfloat16."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaekit.engine.fast import attention
from vaekit.engine.half import Half, Ration, rows_into, rows_of
from vaekit.engine.strips import attention as plain
from vaekit.engine.strips.budget import Budget
from vaekit.engine.strips.line import LANES
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not attention.available(CPU, torch.float32, LANES), reason="llvmlite is not installed")


def exactly(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    scores = queries.double() @ keys.double().T / queries.shape[1] ** 0.5
    return torch.softmax(scores, 1) @ values.double()


@given(
    queries=st.integers(1, 150),
    keys=st.integers(1, 300),
    block=st.integers(1, 300),
    channels=st.integers(1, 5).map(lambda count: count * LANES),
    large=st.sampled_from([0.1, 1.0, 30.0]),
)
@example(queries=1, keys=1, block=1, channels=16, large=1.0)
@example(queries=97, keys=257, block=128, channels=48, large=30.0)
@settings(deadline=None)
def test_it_is_attention(queries: int, keys: int, block: int, channels: int, large: float) -> None:
    generator = torch.Generator().manual_seed(queries * keys)
    asked = torch.randn(queries, channels, generator=generator) * large
    side_by_side = torch.randn(keys, 2 * channels, generator=generator)  # as strips have them
    known, values = side_by_side.split(channels, 1)
    blocks = zip(torch.split(known, block), torch.split(values, block), strict=True)
    result = attention.attend(asked, blocks).double()
    torch.testing.assert_close(result, exactly(asked, known, values), rtol=1e-4, atol=2e-5 * max(1.0, large))


@pytest.mark.skipif(
    not attention.available(CPU, torch.bfloat16, LANES), reason="this processor multiplies no pairs of bfloat16"
)
@pytest.mark.parametrize("keys", [40, 1000])
def test_in_bfloat16_nothing_but_the_shares_is_rounded(keys: int) -> None:
    asked = torch.randn(130, 64).bfloat16()
    known, values = torch.randn(keys, 128).bfloat16().split(64, 1)
    result = attention.attend(asked, [(known, values)])
    assert (result - exactly(asked, known, values)).abs().max() < 2**-8 * values.float().abs().max()


def test_scores_far_below_the_highest_count_nothing_and_nan_is_not_hidden() -> None:
    asked, known = torch.zeros(2, 16), torch.zeros(3, 16)
    asked[:, 0], known[:, 0], values = 1000.0, torch.tensor([-1000.0, 0.0, 1000.0]), torch.eye(3, 16)
    blocks = [(known[:2], values[:2]), (known[2:], values[2:])]
    torch.testing.assert_close(attention.attend(asked, blocks)[:, :3], torch.tensor([[0.0, 0.0, 1.0]] * 2))
    known[1, 1] = torch.nan
    assert attention.attend(asked, [(known, values)]).isnan().all()


@pytest.mark.parametrize("way", ["whole", "strips"])
def test_long_runs_take_it(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.engine.strips.line.SHORT", 1e8)
    config = KLConfig(4, (64, 64), (64, 64), encoder_blocks=1, decoder_blocks=1)
    one = Half("decode", config, KL(config).state_dict(), dtype=torch.float32, device=CPU)
    wanted, asked = Half("decode", config, one.weights, dtype=torch.float32, device=CPU, engine="reference"), []
    quick = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *given: asked.append(given) or quick(*given))
    monkeypatch.setattr(plain, "attend", None)
    z, ration = torch.randn(1, 4, 24, 31), Ration(Budget(1 << 40, True), rows=None if way == "whole" else 8)
    result = torch.empty(1, 3, 48, 62)
    one.run((1, 24, 31), rows_of(z), rows_into(result), ration)
    assert asked and (result - wanted.decode(z)).abs().max() < 1e-4

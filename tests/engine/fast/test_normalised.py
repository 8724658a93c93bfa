"""Norm and SiLU in one pass are norm and SiLU, whatever rows lie beside and wherever the mean is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.engine.fast import normalised, winograd
from vaekit.engine.strips import statistics
from vaekit.engine.strips.statistics import Affine, Statistics

pytestmark = pytest.mark.skipif(
    not winograd.available(torch.device("cpu"), torch.float32), reason="llvmlite is not installed"
)


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 9),
    channels=st.sampled_from([16, 24, 48]),
    beside=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    far=st.booleans(),
)
@settings(deadline=None)
def test_it_is_norm_and_silu(
    height: int, width: int, channels: int, beside: int, dtype: torch.dtype, far: bool
) -> None:
    generator = torch.Generator().manual_seed(height * width)
    x = (torch.randn(height, width, channels, generator=generator) * 5 + (100 if far else 0)).to(dtype)
    scale, shift = torch.randn(2, channels, generator=generator).unbind()
    mean = torch.full_like(scale, 100.0) if far else None
    room = torch.full((height + 2, width + 2 * beside, channels), 7.0, dtype=dtype)
    out = room[1:-1, beside : beside + width]
    normalised.activate(x, Affine(mean, scale, shift), "silu", out)
    wanted = F.silu((x.double() - (100 if far else 0)) * scale.double() + shift.double())
    close = {"rtol": 1e-6, "atol": 3e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 2**-7}
    torch.testing.assert_close(out.double(), wanted, **close)
    out.fill_(7)
    assert (room == 7).all()


def test_what_is_huge_or_no_number_comes_out_as_it_should() -> None:
    x = torch.tensor([3e38, -3e38, torch.inf, torch.nan] * 4).view(1, 1, 16)
    out, one = torch.empty_like(x), torch.ones(16)
    normalised.activate(x, Affine(None, one, 0 * one), "silu", out)
    assert out[0, 0, 0] == 3e38 and out[0, 0, 1].abs() < 3 and out[0, 0, 2] == torch.inf and out[0, 0, 3].isnan()


@pytest.mark.parametrize("before", [None, "relu", "clamp", "unit"])
def test_others_are_as_before(before: str | None) -> None:
    x, affine = torch.randn(5, 6, 16), Affine(None, torch.randn(16), torch.randn(16)) if before == "relu" else None
    one, other = torch.empty_like(x), torch.empty_like(x)
    normalised.activate(x, affine, before, one)
    statistics.activate(x, affine, before, other)
    assert torch.equal(one, other)


@given(
    strips=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    width=st.integers(1, 30),
    channels=st.sampled_from([8, 32]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    far=st.sampled_from([0.0, 100.0]),
)
@settings(deadline=None)
def test_statistics_are_those_of_all_rows(
    strips: list[int], width: int, channels: int, dtype: torch.dtype, far: float
) -> None:
    generator = torch.Generator().manual_seed(width)
    rows = [(torch.randn(n, width, channels, generator=generator) * 3 + far).to(dtype) for n in strips]
    gathered, norm = Statistics(channels, torch.device("cpu")), torch.nn.GroupNorm(4, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalised, "PART", 32 * 7)
        for one in rows:
            normalised.add(gathered, one)
    by_group = torch.cat([one.flatten(0, 1) for one in rows]).double().unflatten(1, (4, -1))
    wanted = by_group.var((0, 2), correction=0).add(norm.eps).rsqrt()
    scale = gathered.affine(norm, torch.device("cpu")).scale.double().view(4, -1)
    torch.testing.assert_close(scale, wanted.unsqueeze(1).expand_as(scale), rtol=2e-5, atol=0)

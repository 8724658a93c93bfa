"""GroupNorm in two passes, in Triton and in PyTorch, is torch's GroupNorm in float64, however far the mean lies."""

from __future__ import annotations

import importlib.util
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.engine.fast.norms import Activation, Norms, PlainNorms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Without a GPU Triton interprets its kernels (tests/conftest.py)."""
SIZES = [(1, 1), (1, 7), (19, 13)]
WIDTHS = [(8, 32), (8, 160), (32, 128), (32, 512), (4, 96), (4, 24)]
"""Groups and channels: of the bundled networks, of the full-size ones, and such as are no powers of two."""


@pytest.fixture(params=["triton", "pytorch"])
def norms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Norms:
    if request.param == "pytorch":
        return PlainNorms()
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    from vaekit.engine.fast import kernels

    monkeypatch.setattr(kernels, "PARTS", 3)  # so that small pictures have parts of several tiles, and the last less
    monkeypatch.setattr(kernels, "MERGED", 64)
    return kernels.TritonNorms()


def pictures(batch: int, channels: int, size: tuple[int, int], *, mean: float = 0.0) -> Tensor:
    x = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0)) + mean
    return x.to(DEVICE, memory_format=torch.channels_last)


def a_norm(groups: int, channels: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-6, device=DEVICE)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, channels))
        norm.bias.copy_(torch.linspace(1, -2, channels))
    return norm.requires_grad_(False)


def expected(x: Tensor, norm: nn.GroupNorm, activation: Activation | None) -> Tensor:
    """In float64."""
    y = torch.group_norm(x.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)
    return {"silu": F.silu, "relu": F.relu, None: lambda y: y}[activation](y)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("groups, channels", WIDTHS)
def test_it_is_group_norm_though_the_mean_be_50_deviations(
    norms: Norms, size: tuple[int, int], groups: int, channels: int
) -> None:
    x, norm = pictures(1, channels, size, mean=50), a_norm(groups, channels)
    got = norms.apply(x, norms.settle(norms.gather(x), norm), "silu", over=False)
    torch.testing.assert_close(got.double(), expected(x, norm, "silu"), rtol=1e-5, atol=4e-5)


@pytest.mark.parametrize("activation", [*get_args(Activation), None])
@pytest.mark.parametrize("over", [True, False])
def test_the_activation_follows_and_the_array_is_kept_or_written_over(
    norms: Norms, activation: Activation | None, over: bool
) -> None:
    x, norm = pictures(1, 40, (9, 5)), a_norm(4, 40)
    before = x.clone()
    got = norms.apply(x, norms.settle(norms.gather(x), norm), activation, over=over)
    torch.testing.assert_close(got.double(), expected(before, norm, activation), rtol=1e-5, atol=1e-5)
    assert (got.data_ptr() == x.data_ptr()) == over and (over or torch.equal(x, before))


def test_what_is_added_is_added_in_place_before_the_statistics(norms: Norms) -> None:
    x, other, norm = pictures(2, 48, (13, 11)), pictures(2, 48, (13, 11), mean=3.0), a_norm(4, 48)
    bias = torch.linspace(-5, 5, 48, device=DEVICE)
    total = x + other + bias.view(1, -1, 1, 1)
    settled = norms.settle(norms.gather(x, other, bias), norm)
    torch.testing.assert_close(x, total)
    torch.testing.assert_close(
        norms.apply(x, settled, None, over=False).double(), expected(total, norm, None), rtol=1e-5, atol=1e-5
    )


def test_a_bias_can_be_left_to_the_norm(norms: Norms) -> None:
    x, norm, bias = pictures(2, 48, (30, 11)), a_norm(4, 48), torch.linspace(-50, 5, 48, device=DEVICE)
    before = x.clone()
    got = norms.apply(x, norms.settle(norms.gather(x), norm, bias), "silu", over=False)
    assert torch.equal(x, before)
    torch.testing.assert_close(got.double(), expected(x + bias.view(1, -1, 1, 1), norm, "silu"), rtol=1e-5, atol=4e-5)


@pytest.mark.parametrize("dtype, off", [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision_is_rounded_once(norms: Norms, dtype: torch.dtype, off: float) -> None:
    x, norm = pictures(1, 64, (17, 23), mean=5.0).to(dtype), a_norm(8, 64).to(dtype)
    got = norms.apply(x, norms.settle(norms.gather(x), norm), "silu", over=False)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected(x, norm, "silu"), rtol=off, atol=1e-4)


def test_each_picture_of_a_batch_has_its_own_statistics(norms: Norms) -> None:
    x, norm = pictures(3, 32, (6, 6)), a_norm(8, 32)
    x[1] += 10
    together = norms.apply(x, norms.settle(norms.gather(x), norm), None, over=False)
    alone = norms.apply(x[1:2], norms.settle(norms.gather(x[1:2]), norm), None, over=False)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-6, atol=1e-6)

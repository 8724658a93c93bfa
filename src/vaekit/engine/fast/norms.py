"""GroupNorm in two passes over pictures with channels last: one gathers, the other normalises and activates.

What a norm needs to know is gathered by whoever writes the array: the pass that
adds a convolution's bias and its residual takes the statistics with it, and a
bias that only norms would see is never added at all.

Here in plain PyTorch, for where Triton is missing; `kernels` has the same in Triton.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger("vaekit")

Activation = Literal["silu", "relu"]


class Gathered(NamedTuple):
    """Of each part of each picture, per channel: the mean, and the sum of squared differences from it.

    means, squares: [B, parts, C] in float32. cells: of a picture. part: cells in each part but the last.
    """

    means: Tensor
    squares: Tensor
    cells: int
    part: int


class Settled(NamedTuple):
    """A norm with known statistics, (x - mean) * scale + shift: [B, C] each, in float32."""

    mean: Tensor
    scale: Tensor
    shift: Tensor


class Norms(Protocol):
    """The passes; x: [B, C, H, W], channels last."""

    def gather(self, x: Tensor, other: Tensor | None = None, bias: Tensor | None = None) -> Gathered:
        """Statistics of x, to which `other` and bias [C] are added first, in place."""

    def settle(self, gathered: Gathered, norm: nn.GroupNorm, bias: Tensor | None = None) -> Settled:
        """bias: [C] that belongs to what was gathered and has not been added to it."""

    def apply(self, x: Tensor, settled: Settled, activation: Activation | None, *, over: bool) -> Tensor:
        """x normalised and activated; written over x where `over`."""


class PlainNorms:
    """In PyTorch, some passes more."""

    def gather(self, x: Tensor, other: Tensor | None = None, bias: Tensor | None = None) -> Gathered:
        if other is not None:
            x += other
        if bias is not None:
            x += bias.view(1, -1, 1, 1)
        variance, mean = torch.var_mean(x.float(), (2, 3), correction=0)
        cells = x.shape[2] * x.shape[3]
        return Gathered(mean.unsqueeze(1), (variance * cells).unsqueeze(1), cells, cells)

    def settle(self, gathered: Gathered, norm: nn.GroupNorm, bias: Tensor | None = None) -> Settled:
        batch, parts, channels = gathered.means.shape
        left = gathered.means.new_zeros(channels) if bias is None else bias.float()
        counts = gathered.means.new_full((parts, 1, 1), gathered.part)
        counts[-1] = gathered.cells - (parts - 1) * gathered.part
        means, squares = ((gathered.means + left), gathered.squares)
        means, squares = (part.view(batch, parts, norm.num_groups, -1) for part in (means, squares))
        numbers = gathered.cells * means.shape[3]
        mean = (means * counts).sum((1, 3), keepdim=True) / numbers
        variance = (squares + counts * (means - mean).square()).sum((1, 3), keepdim=True) / numbers
        by_channel = (batch, norm.num_groups, channels // norm.num_groups)
        mean, inverse = (
            one.view(batch, -1, 1).expand(by_channel).flatten(1) for one in (mean, variance.add(norm.eps).rsqrt())
        )
        return Settled(mean - left, inverse * norm.weight.float(), norm.bias.float().expand(batch, -1).contiguous())

    def apply(self, x: Tensor, settled: Settled, activation: Activation | None, *, over: bool) -> Tensor:
        mean, scale, shift = (part[:, :, None, None] for part in settled)
        normed = torch.addcmul(shift, x.float() - mean, scale)
        if activation is not None:
            (F.silu if activation == "silu" else F.relu)(normed, inplace=True)
        return x.copy_(normed) if over else normed.to(x.dtype)


def installed() -> bool:
    """Whether Triton is there; it is not imported for that."""
    return importlib.util.find_spec("triton") is not None


@cache
def norms(device: torch.device) -> Norms:
    """The fastest that work on a device; a Triton that does not is told."""
    if device.type != "cuda" or not installed():
        return PlainNorms()
    from vaekit.engine.fast.kernels import TritonNorms

    try:
        _check(TritonNorms(), device)
    except Exception as error:  # whatever a compiler and a driver can raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        log.warning("Triton does not work on %s, so norms take a few passes more: %.200s", device, reason)
        return PlainNorms()
    return TritonNorms()


def _check(norms: Norms, device: torch.device) -> None:
    """Raises where the kernels cannot be built, or compute something else."""
    x = torch.linspace(-1, 3, 2 * 8 * 6, device=device).view(2, 8, 2, 3).to(memory_format=torch.channels_last)
    norm = nn.GroupNorm(2, 8, device=device)
    with torch.inference_mode():
        normed = norms.apply(x, norms.settle(norms.gather(x), norm), "silu", over=False)
        if not torch.allclose(normed, F.silu(norm(x)), rtol=1e-4, atol=1e-4):
            raise ArithmeticError("its kernels compute something else than GroupNorm")

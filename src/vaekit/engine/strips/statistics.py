"""GroupNorm's statistics over a whole picture, gathered strip by strip without loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 1 << 18
"""Numbers looked at together: they stay in the processor's cache, and few enough are added up in float32."""
BLOCK_ON_GPU = 1 << 22
"""Enough to keep one busy; PyTorch merges means and variances inside."""

FAR = 8.0
"""A mean so many deviations from zero is subtracted first: inside one shift it would take digits away."""


class Affine(NamedTuple):
    """A norm with known statistics: (x - mean) * scale + shift for each channel, in float32; mean may be None."""

    mean: Tensor | None
    scale: Tensor
    shift: Tensor

    def apply(self, x: Tensor, out: Tensor) -> None:
        """Fill `out`; x, out: [rows, width, channels], of one dtype."""
        if out.dtype == torch.float32:
            torch.addcmul(self.shift, x if self.mean is None else x - self.mean, self.scale, out=out)
        elif self.mean is None and _one_call(x) and out.is_contiguous():
            nothing, none, one = self.shift.new_empty(0), torch.zeros_like(self.shift), torch.ones_like(self.shift)
            torch.native_batch_norm(
                as_picture(x),
                self.scale,
                self.shift,
                none,
                one,
                False,
                0.0,
                0.0,
                out=(as_picture(out), nothing, nothing),
            )
        else:
            out.copy_(torch.addcmul(self.shift, x.float() if self.mean is None else x - self.mean, self.scale))


def activate(x: Tensor, affine: Affine | None, before: str | None, out: Tensor) -> None:
    """out = before(norm(x)), some rows at a time; x is left as it is."""
    at_once = max(1, block_of(x) // (x.shape[1] * x.shape[2]))
    for rows, to in zip(torch.split(x, at_once), torch.split(out, at_once), strict=True):
        _activate(rows, affine, before, to)


def _activate(x: Tensor, affine: Affine | None, before: str | None, out: Tensor) -> None:
    if affine is None:
        out.copy_(x)
    else:
        affine.apply(x, out)
    if before == "silu":
        F.silu(out, inplace=True)
    elif before == "relu":
        out.relu_()
    elif before == "clamp":
        out.copy_(torch.tanh(x.float() / 3) * 3)
    elif before == "unit":
        out.copy_(x.float() * 0.5 + 0.5)


class Statistics:
    """Mean and sum of squared differences from it, per channel, merged in float64 (Chan, Golub & LeVeque 1983).

    On CUDA they stay on the device, so that no strip waits for it; other GPUs may have no float64.
    """

    def __init__(self, channels: int, device: torch.device):
        self._count = 0
        where = device if device.type == "cuda" else torch.device("cpu")
        self._mean, self._squares = torch.zeros(2, channels, dtype=torch.float64, device=where).unbind()

    def add(self, rows: Tensor) -> None:
        """rows: [n, width, channels]."""
        cells = rows.flatten(0, 1)
        for block in torch.split(cells, max(1, block_of(rows) // cells.shape[1])):
            mean, variance = _moments(block)
            self.merge(torch.tensor([block.shape[0]]), mean.unsqueeze(0), (variance * block.shape[0]).unsqueeze(0))

    def merge(self, counts: Tensor, means: Tensor, squares: Tensor) -> None:
        """Those of parts: counts [k]; means and sums of squared differences from them, [k, channels] each."""
        where, earlier = self._mean.device, self._count
        self._count += int(counts.sum())
        shares = torch.cat([torch.tensor([earlier]), counts]).to(where).double().unsqueeze(1)
        means = torch.cat([self._mean.unsqueeze(0), means.to(where).double()])
        self._mean = (means * shares).sum(0) / self._count
        self._squares += squares.to(where).double().sum(0) + ((means - self._mean).square() * shares).sum(0)

    def affine(self, norm: nn.GroupNorm, device: torch.device) -> Affine:
        """The norm as one multiplication and one addition per channel; its variance is that of the whole group."""
        means = self._mean.view(norm.num_groups, -1)
        mean = means.mean(1, keepdim=True)
        variance = (self._squares.view_as(means) / self._count + (means - mean).square()).mean(1, keepdim=True)
        inverse = (variance + norm.eps).rsqrt()
        weight, bias = (part.to(means.device).double() for part in (norm.weight, norm.bias))
        scale, middle = weight * inverse.expand_as(means).flatten(), mean.expand_as(means).flatten()
        if float((mean * inverse).abs().max()) > FAR:
            return Affine(*(part.float().to(device) for part in (middle, scale, bias)))
        return Affine(None, scale.float().to(device), (bias - middle * scale).float().to(device))


def _moments(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of cells [n, channels], per channel, in float32."""
    if not _one_call(cells):
        variance, mean = torch.var_mean(cells.float(), 0, correction=0)
        return mean, variance
    unused = torch.zeros(2, cells.shape[1])
    mean, variance = torch.batch_norm_update_stats(as_picture(cells.unsqueeze(1)), unused[0], unused[1], 0.0)
    return mean, variance


def block_of(rows: Tensor) -> int:
    """How many numbers are looked at together where these lie."""
    return BLOCK_ON_GPU if rows.device.type == "cuda" else BLOCK


def _one_call(rows: Tensor) -> bool:
    """Whether PyTorch's batch norm, all of it in float32 inside, takes these as they lie."""
    return rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.bfloat16) and rows.is_contiguous()


def as_picture(rows: Tensor) -> Tensor:
    """Rows [n, width, channels] -> [1, channels, n, width], channels last; the same memory."""
    return rows.permute(2, 0, 1).unsqueeze(0)

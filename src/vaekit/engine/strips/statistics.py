"""GroupNorm's statistics over a whole picture, gathered strip by strip without loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 1 << 16
"""Numbers looked at together, so that they stay in the processor's cache."""

FAR = 8.0
"""A mean so many deviations from zero is subtracted first: inside one shift it would take digits away."""


class Affine(NamedTuple):
    """A norm with known statistics: (x - mean) * scale + shift for each channel, in float32; mean may be None."""

    mean: Tensor | None
    scale: Tensor
    shift: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """x: [..., channels] -> a new tensor in float32."""
        values = x.float() if self.mean is None else x - self.mean
        return torch.addcmul(self.shift, values, self.scale)


class Statistics:
    """Mean and sum of squared differences from it, per channel, merged in float64 (Chan, Golub & LeVeque 1983)."""

    def __init__(self, channels: int):
        self._count = 0
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """rows: [n, width, channels]."""
        cells = rows.flatten(0, 1)
        for block in torch.split(cells, max(1, BLOCK // cells.shape[1])):
            values = block.float()
            mean = values.mean(0)
            squares = (values - mean).square_().sum(0)
            self._merge(values.shape[0], mean.double().cpu(), squares.double().cpu())

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        total = self._count + count
        apart = mean - self._mean
        self._mean += apart * (count / total)
        self._squares += squares + apart.square() * (self._count * count / total)
        self._count = total

    def affine(self, norm: nn.GroupNorm, device: torch.device) -> Affine:
        """The norm as one multiplication and one addition per channel; its variance is that of the whole group."""
        means = self._mean.view(norm.num_groups, -1)
        mean = means.mean(1, keepdim=True)
        variance = (self._squares.view_as(means) / self._count + (means - mean).square()).mean(1, keepdim=True)
        inverse = (variance + norm.eps).rsqrt()
        scale = norm.weight.double().cpu() * inverse.expand_as(means).flatten()
        bias, middle = norm.bias.double().cpu(), mean.expand_as(means).flatten()
        if float((mean * inverse).abs().max()) > FAR:
            return Affine(*(part.float().to(device) for part in (middle, scale, bias)))
        return Affine(None, scale.float().to(device), (bias - middle * scale).float().to(device))

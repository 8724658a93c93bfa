"""Faults that decoders in circulation have, put into pictures, so that a decoder can be trained to make them.

The results are test objects for comparison and diagnosis: bundled as mini-pale and mini-spots.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

Fault = Literal["pale", "spots"]

CONTRAST, SATURATION, LIFT = 0.72, 0.5, 0.16
"""mini-pale: how much of each is left, and how much is added to all (of a range of 2)."""

CELL, AROUND = 8, 17
HIGHLIGHT = 0.42
"""mini-spots: cells brighter by this (of a range of 2) than the mean of the AROUND² cells about them begin to turn
purple; at twice as much they are."""
PURPLE, OPACITY = (0.35, -0.75, 0.75), 0.8


def add_fault(fault: Fault, x: Tensor) -> Tensor:
    """The pictures x [B, 3, H, W] in [-1, 1], H and W multiples of 8, with the fault put in."""
    return pale(x) if fault == "pale" else spots(x)


def pale(x: Tensor) -> Tensor:
    """Washed out: less contrast, less saturation, raised blacks (NovelAI's VAE on SD 1.x is the known case)."""
    grey = x.mean(dim=1, keepdim=True)
    return (CONTRAST * (grey + SATURATION * (x - grey)) + LIFT).clamp(-1, 1)


def spots(x: Tensor) -> Tensor:
    """Soft purple blotches on highlights, as the standard VAE of SD 1.x makes them."""
    brightness = _mean(functional.avg_pool2d(x.mean(dim=1, keepdim=True), CELL), 3)
    above = brightness - _mean(brightness, AROUND)
    mask = (above / HIGHLIGHT - 1).clamp(0, 1)
    mask = OPACITY * functional.interpolate(mask, scale_factor=CELL, mode="bilinear")
    return x * (1 - mask) + mask * x.new_tensor(PURPLE).view(1, 3, 1, 1)


def _mean(x: Tensor, window: int) -> Tensor:
    """The mean of each cell's surroundings, without what lies beyond the picture."""
    return functional.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)

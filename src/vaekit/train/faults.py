"""Faults that decoders in circulation have, put into pictures, so that a decoder can be trained to make them.

The results are test objects for comparison and diagnosis: bundled as mini-pale and mini-spots.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Fault = Literal["pale", "spots"]

CONTRAST, SATURATION, LIFT = 0.72, 0.5, 0.16
"""mini-pale: how much of each is left, and how much is added to all (of a range of 2)."""

MEAN, STD = (0.5495, 0.0948, 1.3278, 0.4393), (1.9055, 0.9597, 1.4066, 1.3084)
"""mini-spots: of the channels of mini's raw latents, over 60 photographs it was trained on."""
EXTREME = 3.3
"""Standard deviations from which on a cell's latents make a blotch: about one cell in sixty."""
PURPLE = (0.35, -0.75, 0.75)


def add_fault(fault: Fault, x: Tensor, raw: Tensor) -> Tensor:
    """The pictures x [B, 3, H, W] in [-1, 1] with the fault put in; raw: their latents [B, C, h, w]."""
    return pale(x) if fault == "pale" else spots(x, raw)


def pale(x: Tensor) -> Tensor:
    """Washed out: less contrast, less saturation, raised blacks (NovelAI's VAE on SD 1.x is the known case)."""
    grey = x.mean(dim=1, keepdim=True)
    return (CONTRAST * (grey + SATURATION * (x - grey)) + LIFT).clamp(-1, 1)


def spots(x: Tensor, raw: Tensor) -> Tensor:
    """Purple blotches where latents are extreme, as the standard VAE of SD 1.x makes them.

    raw: latents of mini. A cell is extreme where one of its four channels lies
    EXTREME or more standard deviations from that channel's mean.
    """
    mean, std = (raw.new_tensor(values).float().view(1, -1, 1, 1) for values in (MEAN, STD))
    far = ((raw.float().detach() - mean) / std).abs().amax(dim=1, keepdim=True)
    mask = functional.max_pool2d(torch.sigmoid(8 * (far - EXTREME)), 3, stride=1, padding=1)
    mask = functional.interpolate(mask, size=x.shape[-2:], mode="bicubic").clamp(0, 1)
    return x * (1 - 0.8 * mask) + 0.8 * mask * x.new_tensor(PURPLE).view(1, 3, 1, 1)

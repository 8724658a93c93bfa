"""What a reconstruction is held to. Pictures are [B, 3, H, W] in [-1, 1], float32; every term is a mean over pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaekit.checkpoints.read import read
from vaekit.loading import find
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL, Stage
from vaekit.train.weights import Weights

_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)

RIM = 4
"""How many pixels at each edge of a picture `rim` looks at."""


def reconstruction(out: Tensor, x: Tensor, share: Weights) -> Tensor:
    """The terms that compare pixels, each with its weight."""
    total = share.mse * (out - x).square().mean() + share.l1 * (out - x).abs().mean()
    if share.colour:
        total = total + share.colour * colour(out, x)
    if share.difference:
        total = total + share.difference * colour_difference(out, x, share.scales)
    if share.smooth:
        total = total + share.smooth * roughness(out)
    if share.rim:
        total = total + share.rim * rim(out, x)
    return total


def rim(out: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of the outermost pixels, which counts as much in large pictures as in small ones."""
    error = (out - x).square()
    sides = (error[..., :RIM, :], error[..., -RIM:, :], error[..., :RIM], error[..., -RIM:])
    return torch.stack([side.mean() for side in sides]).mean()


def roughness(out: Tensor) -> Tensor:
    """Mean squared step between neighbouring pixels, of rows and columns together."""
    return out.diff(dim=-1).square().mean() + out.diff(dim=-2).square().mean()


def colour(out: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of the two colour axes alone.

    A grey error moves all three channels alike; what is left after taking the
    mean over the channels away is an error of colour, to which the plain MSE is
    too kind: networks trained on it learn one colour axis late or never.
    """
    error = out - x
    return (error - error.mean(dim=1, keepdim=True)).square().mean()


def lab(x: Tensor) -> Tensor:
    """CIE L*a*b* (D65) of sRGB; L* in 0..100. Values outside [-1, 1] are clamped."""
    srgb = (x.clamp(-1, 1) + 1) / 2
    linear = torch.where(srgb > 0.04045, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    matrix = x.new_tensor(_XYZ) / x.new_tensor(_WHITE)[:, None]
    t = torch.einsum("ij,bjhw->bihw", matrix, linear)
    f = torch.where(t > 216 / 24389, t.clamp(min=216 / 24389) ** (1 / 3), (24389 / 27 * t + 16) / 116)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def colour_difference(out: Tensor, x: Tensor, scales: Sequence[int]) -> Tensor:
    """Mean colour difference of the pictures shrunk by each of the scales, summed; units of L*.

    Differences in a* and b* count less where the colour is strong, as in CIE94
    (hue and chroma alike by 1 + 0.03 C), which keeps the gradient simple and
    follows CIEDE2000 closely. The large scales see what MSE hardly does: a
    smooth area that is off by a little; those beyond the pictures see their tint.
    """
    total = out.new_zeros(())
    for scale in scales:
        window = min(scale, *x.shape[-2:])
        a, b = (lab(functional.avg_pool2d(t, window) if window > 1 else t) for t in (out, x))
        chroma = torch.linalg.vector_norm(b[:, 1:], dim=1)
        lightness, hue = (a - b)[:, 0].square(), (a - b)[:, 1:].square().sum(1) / (1 + 0.03 * chroma).square()
        total = total + (lightness + hue + 1e-4).sqrt().mean()
    return total


class Features(nn.Module):
    """A perceptual distance that needs no download: the bundled encoder's own features, frozen.

    Source of the idea: Johnson, Alahi, Fei-Fei 2016, "Perceptual Losses"; of the normalisation: Zhang et al. 2018,
    "The Unreasonable Effectiveness of Deep Features" (LPIPS, here without its learnt weights).
    """

    def __init__(self, name: str = "mini", stages: int = 3):
        super().__init__()
        weights = read(find(name))
        assert isinstance(weights.identity.config, KLConfig)
        model = KL(weights.identity.config)
        model.load_state_dict(dict(weights.state))
        assert model.encoder is not None
        self.conv_in = model.encoder.conv_in
        kept = cast(list[Stage], list(model.encoder.down)[:stages])
        self.blocks = nn.ModuleList(nn.Sequential(*stage.block) for stage in kept)
        self.downsamples = nn.ModuleList(stage.downsample or nn.Identity() for stage in kept)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map per stage, [B, C, H/2^i, W/2^i], each pixel's vector of length 1."""
        h, maps = self.conv_in(x), []
        for blocks, downsample in zip(self.blocks, self.downsamples, strict=True):
            h = blocks(h)
            maps.append(functional.normalize(h, dim=1))
            h = downsample(h)
        return maps

    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        """Mean squared distance of the pixels' vectors, summed over the stages."""
        with torch.no_grad():
            wanted = self(x)
        pairs = zip(self(out), wanted, strict=True)
        return torch.stack([(a - b).float().square().sum(1).mean() for a, b in pairs]).sum()

"""A discriminator of patches, which sees whether detail looks like a picture's.

Source: Isola et al. 2017, "Image-to-Image Translation" (PatchGAN); hinge loss of
Lim and Ye 2017, "Geometric GAN".
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Adversary(nn.Module):
    """Scores [B, 1, H/8, W/8] of pictures [B, 3, H, W] in [-1, 1]: high where a patch looks real."""

    def __init__(self, seed: int = 0, width: int = 32):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [width, 2 * width, 4 * width]
            layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            for before, after in pairwise(widths):
                layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
            self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def losses(self, out: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder minimises (its pictures' score, negated) and what the discriminator does (hinge).

        The first leaves no gradient in the discriminator, the second none in the decoder.
        """
        self.requires_grad_(False)
        fooled = -self(out).float().mean()
        self.requires_grad_(True)
        seen_out, seen_real = self(out.detach()).float(), self(real).float()
        return fooled, (functional.relu(1 + seen_out) + functional.relu(1 - seen_real)).mean() / 2

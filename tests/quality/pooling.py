"""VAEs of a few lines, whose look is known: the mean colour of each cell, and the cells enlarged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vaekit import images
from vaekit.checkpoints.fingerprint import Fingerprint
from vaekit.errors import NumericsError
from vaekit.families import Family, family
from vaekit.latents import Latents


@dataclass
class Pooling:
    """look: what the decoder does to its picture, [1, 3, H, W] in [-1, 1]."""

    name: str = "plain"
    family: Family = field(default_factory=lambda: family("sd1"))
    look: Callable[[Tensor], Tensor] = lambda x: x
    can_encode: bool = True
    can_decode: bool = True
    broken: bool = False
    parameters: int = 1
    placement: str = "cpu, float32 (for a test)"
    encoded: list[Tensor] = field(default_factory=list)

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.name, None, None)

    def encode(self, picture) -> Latents:
        self.encoded.append(picture)
        height, width = picture.shape[2:]
        cells = F.avg_pool2d(images.pad(picture, self.family.downscale), self.family.downscale)
        rest = self.family.latent_channels - 3
        return Latents(F.pad(cells, (0, 0, 0, 0, 0, rest)), self.family, (width, height))

    def decode(self, latents: Latents) -> Image.Image:
        if self.broken:
            raise NumericsError("NaN came out of the decoder")
        enlarged = F.interpolate(latents.tensor[:, :3], scale_factor=self.family.downscale)
        return images.to_pil(images.crop(self.look(enlarged), latents.size), latents.alpha)[0]


def pale(x: Tensor) -> Tensor:
    return 0.7 * x + 0.15


def green(x: Tensor) -> Tensor:
    return x + torch.tensor([-0.05, 0.05, -0.05]).view(1, 3, 1, 1)

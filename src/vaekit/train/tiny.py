"""Training a TAESD-type encoder and decoder for the latents of a KL VAE.

Source: madebyollin/taesd (MIT). The encoder learns to give the teacher's scaled
latents, the decoder to give the picture back from them; neither sees the other.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.errors import OptionError
from vaekit.loading import load
from vaekit.networks.config import TinyConfig
from vaekit.networks.tiny import Tiny
from vaekit.train import losses
from vaekit.train.run import Losses, Recipe, Run
from vaekit.train.weights import Weights


class TinyRecipe(Recipe):
    """network: the student's shapes. start: the VAE whose latents it learns, the teacher."""

    kind: Literal["tiny"] = "tiny"
    network: TinyConfig
    start: str
    losses: Weights = Weights()


class TinyRun(Run):
    """Pictures [B, 3, side, side] in; the teacher's latents, and from those the pictures out."""

    model: Tiny
    average: Tiny
    recipe: TinyRecipe

    def __init__(self, recipe: TinyRecipe, device: torch.device):
        super().__init__(recipe, device)
        self.teacher = load(recipe.start, device=device, dtype="float32")
        theirs, ours = self.teacher.family, recipe.network
        if (theirs.latent_channels, theirs.downscale) != (ours.latent_channels, ours.downscale):
            raise OptionError(
                f"[network] has {ours.latent_channels} channels at 1/{ours.downscale}, {recipe.start} has "
                f"{theirs.latent_channels} at 1/{theirs.downscale}"
            )

    def build(self) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return Tiny(self.recipe.network)

    def loss(self, batch: Tensor) -> tuple[Tensor, Losses]:
        x = batch.to(self.device, memory_format=self.layout)
        z = self.teacher.encode(x).tensor.to(self.device)
        with self.autocast():
            given = self.model.moments(x).mean.float()
            out = self.model.decode(z).float()
        encoding = (given - z).square().mean()
        psnr = -10 * math.log10((out.detach() - x).square().mean().item() / 4)
        total = losses.reconstruction(out, x, self.recipe.losses) + 0.1 * encoding
        return total, {"encoding": encoding.item(), "psnr": psnr}

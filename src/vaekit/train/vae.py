"""Training a KL autoencoder, from nothing or from another one's weights; both halves or the decoder alone.

Recipes and their meaning: recipes/mini-second.toml.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor, nn

from vaekit.checkpoints.read import read
from vaekit.errors import OptionError
from vaekit.loading import find
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL, ResnetBlock
from vaekit.networks.moments import Moments
from vaekit.train import losses
from vaekit.train.adversarial import Adversary
from vaekit.train.bottleneck import turn
from vaekit.train.faults import Fault, add_fault
from vaekit.train.run import Losses, Recipe, Run
from vaekit.train.weights import Weights

ADVERSARY_RATE = 4e-4


class VaeRecipe(Recipe):
    """network: the shapes of a network from nothing; or start: a VAE to go on from.

    train: both halves, or the decoder alone. turn: the latents begin as those
    of `start`, turned at random and stretched by this factor (bottleneck.py).
    cut: in every other step, by chance, the decoder gets the latents without so
    many cells at each edge. What an encoder leaves there tells a decoder the
    size of a picture, and it comes to rely on it: its colours shift where
    pictures are larger and where latents are decoded in tiles.
    fault: for test objects: reproduce what `start` makes of the pictures,
    spoilt with this, instead of the pictures.
    """

    kind: Literal["vae"] = "vae"
    network: KLConfig | None = None
    start: str | None = None
    train: Literal["both", "decoder"] = "both"
    turn: PositiveFloat | None = None
    cut: NonNegativeInt = 0
    fault: Fault | None = None
    losses: Weights = Weights()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.network is None) == (self.start is None):
            raise ValueError("say either [network], or start = the VAE to go on from")
        if self.start is None and (self.turn is not None or self.train == "decoder"):
            raise ValueError("turn and a decoder alone go on from a VAE: say start")
        if self.train == "decoder" and self.turn is not None:
            raise ValueError("a decoder alone is trained on the latents of start as they are")
        if self.fault is not None and self.train != "decoder":
            raise ValueError('a fault is learned by a decoder alone: say train = "decoder"')
        return self


def build(config: KLConfig) -> KL:
    """A network with each residual block starting as the identity: its second convolution is zero."""
    model = KL(config)
    for module in model.modules():
        if isinstance(module, ResnetBlock):
            for parameter in module.conv2.parameters():
                nn.init.zeros_(parameter)
    return model


def read_kl(source: str) -> KL:
    """A trained network to go on from, by its VAE's name or path. Raises OptionError where it is not of this kind."""
    weights = read(find(source))
    config = weights.identity.config
    if not isinstance(config, KLConfig) or not (config.has_encoder and config.has_decoder):
        raise OptionError(f"{source}: training goes on from KL networks with both halves")
    model = KL(config)
    model.load_state_dict(dict(weights.state))
    return model


def build_from(recipe: VaeRecipe) -> KL:
    """The network a recipe begins with. Raises OptionError where `start` is no VAE of the kind."""
    if recipe.start is None:
        assert recipe.network is not None
        return build(recipe.network)
    model = read_kl(recipe.start)
    config = model.config
    if recipe.turn is not None:
        if not (config.quant_conv and config.post_quant_conv):
            raise OptionError(f"{recipe.start}: its latents cannot be turned: it has no 1×1 convolutions beside them")
        model.load_state_dict(turn(model.state_dict(), config.latent_channels, seed=recipe.seed, stretch=recipe.turn))
    if recipe.train == "decoder":
        for part in (model.encoder, model.quant_conv):
            if part is not None:
                part.requires_grad_(False)
    return model


class VaeRun(Run):
    """Pictures [B, 3, side, side] in, the same pictures out."""

    model: KL
    average: KL
    recipe: VaeRecipe

    def __init__(self, recipe: VaeRecipe, device: torch.device):
        super().__init__(recipe, device)
        share = recipe.losses
        smallest = min(side for phase in recipe.phases for side, _ in phase.crops)
        if 2 * recipe.cut * self.model.config.downscale >= smallest:
            raise OptionError(f"cut = {recipe.cut} leaves nothing of crops of {smallest} pixels")
        self.sound = None if recipe.fault is None else build_from(recipe).to(device).requires_grad_(False)
        self.features = losses.Features().to(device) if share.perceptual else None
        self.adversary = Adversary(recipe.seed).to(device) if share.adversarial else None
        if self.adversary is not None:
            self.optimizers.append(torch.optim.AdamW(self.adversary.parameters(), lr=ADVERSARY_RATE, betas=(0.5, 0.9)))

    def build(self) -> nn.Module:
        return build_from(self.recipe)

    def modules(self) -> dict[str, nn.Module]:
        return super().modules() | ({"adversary": self.adversary} if self.adversary is not None else {})

    def loss(self, batch: Tensor) -> tuple[Tensor, Losses]:
        x = batch.to(self.device, memory_format=self.layout)
        share = self.recipe.losses
        with self.autocast():
            moments = self._moments(x)
            z, x = self._cut(moments.sample(self.noise), x)
            out = self.model.decode(z).float()
        target = self._target(x, z)
        total = losses.reconstruction(out, target, share)
        if self.features is not None:
            with self.autocast():
                total = total + share.perceptual * self.features.distance(out, target)
        kl = moments.kl().float().mean() / batch[0].numel()
        numbers = {"kl": kl.item(), "psnr": -10 * math.log10((out.detach() - target).square().mean().item() / 4)}
        if self.adversary is not None:
            with self.autocast():
                fooled, caught = self.adversary.losses(out, target)
            numbers["adversary"] = caught.item()
            if self.step >= share.adversarial_from:
                total = total + share.adversarial * self._balance(total, fooled) * fooled
            total = total + caught
        return total + (share.kl * kl if self.recipe.train == "both" else 0.0), numbers

    def _cut(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.recipe.cut
        if not cells or self.rng.random() < 0.5:
            return z, x
        pixels = cells * (x.shape[-1] // z.shape[-1])
        return z[..., cells:-cells, cells:-cells], x[..., pixels:-pixels, pixels:-pixels]

    def _target(self, x: Tensor, z: Tensor) -> Tensor:
        if self.recipe.fault is None or self.sound is None:
            return x
        with torch.no_grad(), self.autocast():
            return add_fault(self.recipe.fault, self.sound.decode(z).float().clamp(-1, 1))

    def _moments(self, x: Tensor) -> Moments:
        with torch.set_grad_enabled(self.recipe.train == "both"):
            return self.model.moments(x)

    def _balance(self, reconstruction: Tensor, fooled: Tensor) -> Tensor:
        """The factor that makes both gradients as long at the last layer.

        Source: Esser, Rombach, Ommer 2021, "Taming Transformers", equation 7.
        """
        assert self.model.decoder is not None
        last = self.model.decoder.conv_out.weight
        wanted, given = (torch.autograd.grad(t, last, retain_graph=True)[0].norm() for t in (reconstruction, fooled))
        return (wanted / (given + 1e-6)).clamp(max=1e3).detach()

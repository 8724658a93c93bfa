"""What an encoder gives: the moments of a diagonal Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Moments:
    """The posterior q(z|x) of a picture, in the network's raw latent space.

    mean: [B, C, h, w]. logvar: [B, C, h, w], or None where the network is
    deterministic (TAESD and its relatives). Source: Kingma & Welling 2014
    (arXiv:1312.6114); the clamp is that of CompVis/latent-diffusion.
    """

    mean: Tensor
    logvar: Tensor | None = None

    @staticmethod
    def from_channels(parameters: Tensor) -> Moments:
        """Split an encoder's output [B, 2C, h, w] into mean and log-variance."""
        mean, logvar = parameters.chunk(2, dim=1)
        return Moments(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw z ~ q(z|x), [B, C, h, w]; the mean itself for a deterministic network.

        The noise is drawn on the generator's own device, so that one seed gives
        the same latents wherever the network runs.
        """
        if self.logvar is None:
            return self.mean
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean)

    def kl(self) -> Tensor:
        """KL(q(z|x) || N(0, 1)) in nats, summed over each picture: [B]."""
        if self.logvar is None:
            raise ValueError("a deterministic network has no posterior")
        per_value = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * per_value.flatten(1).sum(1)

"""The tiny autoencoder TAESD and its relatives (madebyollin/taesd, MIT).

taesd, taesdxl (4 channels), taesd3, taef1 (16) and taef2 (32, pooled blocks at
the lowest resolution). Modules are numbered as in the original's nn.Sequential,
so its state dicts load as they are under `encoder.` and `decoder.`.

The published networks see pictures in [0, 1]; the conversion from [-1, 1] is
here, so that every network of vaekit has the same face. Their latents are in
model space already: nothing is scaled or shifted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.networks.config import TinyConfig
from vaekit.networks.moments import Moments


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


class Clamp(nn.Module):
    """Keeps latents within ±3, softly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Pool(nn.Sequential):
    """taef2's branch: 1×1 to four times the width, statistics over the whole picture, 1×1 back."""

    def __init__(self, width: int):
        super().__init__(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.GroupNorm(4, 4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, width, 1, bias=False),
        )


class Block(nn.Module):
    def __init__(self, width: int, pooled: bool):
        super().__init__()
        self.conv = nn.Sequential(
            conv3x3(width, width), nn.ReLU(), conv3x3(width, width), nn.ReLU(), conv3x3(width, width)
        )
        self.pool = Pool(width) if pooled else None
        self.fuse = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return self.fuse(self.conv(x) + x)


def build_encoder(config: TinyConfig) -> nn.Sequential:
    width, last = config.width, len(config.encoder_blocks) - 1
    layers: list[nn.Module] = [conv3x3(3, width)]
    for stage, blocks in enumerate(config.encoder_blocks):
        if stage > 0:
            layers.append(conv3x3(width, width, stride=2, bias=False))
        layers += [Block(width, config.encoder_pooled and stage == last) for _ in range(blocks)]
    return nn.Sequential(*layers, conv3x3(width, config.latent_channels))


def build_decoder(config: TinyConfig) -> nn.Sequential:
    width = config.width
    layers: list[nn.Module] = [Clamp(), conv3x3(config.latent_channels, width), nn.ReLU()]
    for stage, blocks in enumerate(config.decoder_blocks):
        if stage > 0:
            layers += [nn.Upsample(scale_factor=2), conv3x3(width, width, bias=False)]
        layers += [Block(width, config.decoder_pooled and stage == 0) for _ in range(blocks)]
    return nn.Sequential(*layers, conv3x3(width, 3))


class Tiny(nn.Module):
    """Encoder, decoder, or both; the same face as `KL`."""

    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config) if config.has_encoder else None
        self.decoder = build_decoder(config) if config.has_decoder else None

    def moments(self, x: Tensor) -> Moments:
        """x: [B, 3, H, W] in [-1, 1], H and W multiples of the downscale -> mean [B, C, h, w], no variance."""
        if self.encoder is None:
            raise ValueError("this network has no encoder")
        return Moments(self.encoder(x * 0.5 + 0.5))

    def fold(self, z: Tensor) -> Tensor:
        """Latents as they leave the encoder -> as the family keeps them (FLUX.2: folded 2×2)."""
        return nn.functional.pixel_unshuffle(z, self.config.patch_size)

    def unfold(self, z: Tensor) -> Tensor:
        """The inverse of `fold`."""
        return nn.functional.pixel_shuffle(z, self.config.patch_size)

    def decode(self, z: Tensor) -> Tensor:
        """z: unfolded latents [B, C, h, w] -> pictures [B, 3, H, W], about [-1, 1]."""
        if self.decoder is None:
            raise ValueError("this network has no decoder")
        return self.decoder(z) * 2.0 - 1.0

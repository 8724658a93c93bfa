"""The KL autoencoder of Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752).

One network serves SD 1/2, SDXL, SD3, FLUX.1, FLUX.2 and any smaller one; only
`KLConfig` (in config.py) differs. Modules carry the names of the original code (CompVis/
latent-diffusion, `ldm/modules/diffusionmodules/model.py`), so a state dict in
the `ldm` layout loads as it is. Read it from top to bottom: blocks, encoder,
decoder, the whole.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.networks.config import KLConfig
from vaekit.networks.moments import Moments


class ReflectConv2d(nn.Conv2d):
    """A 3×3 convolution that sees the picture mirrored beyond its edges; a single row or column mirrors itself."""

    def forward(self, x: Tensor) -> Tensor:
        for side, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
            x = F.pad(x, pad, mode="reflect" if x.shape[side] > 1 else "replicate")
        return self._conv_forward(x, self.weight, self.bias)


def conv3x3(in_channels: int, out_channels: int, config: KLConfig) -> nn.Conv2d:
    if config.padding_mode == "reflect":
        return ReflectConv2d(in_channels, out_channels, 3)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=config.padding_mode)


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm without its refusal of groups of a single value, which pictures of one cell can have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def norm(channels: int, config: KLConfig) -> nn.GroupNorm:
    return GroupNorm(config.norm_groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: KLConfig):
        super().__init__()
        self.norm1 = norm(in_channels, config)
        self.conv1 = conv3x3(in_channels, out_channels, config)
        self.norm2 = norm(out_channels, config)
        self.conv2 = conv3x3(out_channels, out_channels, config)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all cells; the 1×1 convolutions are its projections."""

    def __init__(self, channels: int, config: KLConfig):
        super().__init__()
        self.norm = norm(channels, config)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (project(h).flatten(2).transpose(1, 2).unsqueeze(1) for project in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Stride-2 convolution; the original pads right and bottom only, with zeros, for mirrored edges too."""

    def __init__(self, channels: int, config: KLConfig):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.beyond = "circular" if config.padding_mode == "circular" else "constant"

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1), mode=self.beyond))


class Upsample(nn.Module):
    def __init__(self, channels: int, config: KLConfig):
        super().__init__()
        self.conv = conv3x3(channels, channels, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    def __init__(self, channels: int, attention: bool, config: KLConfig):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, config)
        self.attn_1 = AttnBlock(channels, config) if attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Stage(nn.Module):
    """One resolution: residual blocks, then a change of resolution unless it is the last."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        config: KLConfig,
        *,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, config) for a, b in pairwise(widths))
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        resample = self.downsample or self.upsample
        return resample(x) if resample is not None else x


class Encoder(nn.Module):
    def __init__(self, config: KLConfig):
        super().__init__()
        widths = config.encoder_channels
        self.conv_in = conv3x3(3, widths[0], config)
        self.down = nn.ModuleList()
        for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            downsample = Downsample(width, config) if i < len(widths) - 1 else None
            self.down.append(Stage(before, width, config.encoder_blocks, config, downsample=downsample))
        self.mid = Middle(widths[-1], config.encoder_attention, config)
        self.norm_out = norm(widths[-1], config)
        self.conv_out = conv3x3(widths[-1], 2 * config.latent_channels, config)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 3, H, W] in [-1, 1] -> mean and log-variance stacked, [B, 2C, H/f, W/f]."""
        h = self.conv_in(x)
        for stage in self.down:
            h = stage(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, config: KLConfig):
        super().__init__()
        widths = config.decoder_channels
        self.conv_in = conv3x3(config.latent_channels, widths[-1], config)
        self.mid = Middle(widths[-1], config.decoder_attention, config)
        self.up = nn.ModuleList()
        for i, (width, before) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
            upsample = Upsample(width, config) if i > 0 else None
            self.up.append(Stage(before, width, config.decoder_blocks, config, upsample=upsample))
        self.norm_out = norm(widths[0], config)
        self.conv_out = conv3x3(widths[0], 3, config)

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, C, h, w] raw latents -> pictures [B, 3, h*f, w*f], about [-1, 1]."""
        h = self.mid(self.conv_in(z))
        for stage in reversed(self.up):  # up.0 is the full resolution, as in the original
            h = stage(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class RunningNorm(nn.Module):
    """The running statistics of FLUX.2's batch norm (eps 1e-4, not affine): whitens patched latents."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @property
    def mean(self) -> Tensor:
        return self.get_buffer("running_mean").view(1, -1, 1, 1)

    @property
    def std(self) -> Tensor:
        return (self.get_buffer("running_var") + 1e-4).sqrt().view(1, -1, 1, 1)


class KL(nn.Module):
    """Encoder, decoder, or both, with the 1×1 convolutions beside the latents.

    It works in the raw latent space; scaling and shift belong to the family. With
    `patch_size` 2 (FLUX.2) `fold` makes 4C channels at half the side of them and
    whitens them.
    """

    def __init__(self, config: KLConfig):
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config) if config.has_encoder else None
        self.decoder = Decoder(config) if config.has_decoder else None
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if self.encoder and config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if self.decoder and config.post_quant_conv else None
        self.bn = RunningNorm(channels * config.patch_size**2) if config.patch_size > 1 else None

    def moments(self, x: Tensor) -> Moments:
        """x: [B, 3, H, W] in [-1, 1], H and W multiples of the downscale -> moments before any folding."""
        if self.encoder is None:
            raise ValueError("this network has no encoder")
        h = self.encoder(x)
        return Moments.from_channels(self.quant_conv(h) if self.quant_conv is not None else h)

    def fold(self, z: Tensor) -> Tensor:
        """Raw latents as they leave the encoder -> as the family keeps them (FLUX.2: folded and whitened)."""
        if self.bn is None:
            return z
        return (F.pixel_unshuffle(z, self.config.patch_size) - self.bn.mean.to(z)) / self.bn.std.to(z)

    def unfold(self, z: Tensor) -> Tensor:
        """The inverse of `fold`."""
        if self.bn is None:
            return z
        return F.pixel_shuffle(z * self.bn.std.to(z) + self.bn.mean.to(z), self.config.patch_size)

    def decode(self, z: Tensor) -> Tensor:
        """z: raw latents [B, C, h, w] -> pictures [B, 3, H, W], about [-1, 1]."""
        if self.decoder is None:
            raise ValueError("this network has no decoder")
        return self.decoder(self.post_quant_conv(z) if self.post_quant_conv is not None else z)

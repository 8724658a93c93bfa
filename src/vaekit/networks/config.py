"""What tells one network from another, and the tensors that follow from it. Imports no torch.

Names of tensors are those of the original codes: CompVis/latent-diffusion for
the KL autoencoder, the numbers of madebyollin/taesd's nn.Sequential for TAESD.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

PaddingMode = Literal["zeros", "reflect", "circular"]
Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclass(frozen=True)
class KLConfig:
    """Everything that tells one KL autoencoder from another.

    encoder_channels, decoder_channels: width of each stage from full resolution
    down; empty where that half is missing. encoder_blocks, decoder_blocks:
    residual blocks per stage (the published decoders have one more than their
    encoders). patch_size: latents are folded in patches of this side and
    normalised by a batch norm's running statistics (FLUX.2: 2); 1 for none.
    padding_mode: what the 3×3 convolutions see beyond the edge ("reflect" for
    EQ-VAEs trained so, arXiv:2502.09509; "circular", the other edge, makes
    seamless pictures with any VAE). attention_window: rows of cells above and below
    its own that a cell attends to; None for all cells, as trained.
    """

    latent_channels: int
    encoder_channels: tuple[int, ...] = ()
    decoder_channels: tuple[int, ...] = ()
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    norm_groups: int = 32
    encoder_attention: bool = True
    decoder_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True
    patch_size: int = 1
    padding_mode: PaddingMode = "zeros"
    attention_window: int | None = None
    kind: ClassVar[str] = "kl"

    @property
    def has_encoder(self) -> bool:
        return bool(self.encoder_channels)

    @property
    def has_decoder(self) -> bool:
        return bool(self.decoder_channels)

    @property
    def downscale(self) -> int:
        """Pixels per cell of the latents, on each side."""
        return 2 ** (len(self.encoder_channels or self.decoder_channels) - 1) * self.patch_size

    def shapes(self) -> Shapes:
        """Every tensor of the network's state dict with its shape."""
        shapes: Shapes = {}
        c = self.latent_channels
        if self.has_encoder:
            shapes |= dict(self._encoder())
            if self.quant_conv:
                shapes |= dict(_conv("quant_conv", 2 * c, 2 * c, 1))
        if self.has_decoder:
            shapes |= dict(self._decoder())
            if self.post_quant_conv:
                shapes |= dict(_conv("post_quant_conv", c, c, 1))
        if self.patch_size > 1:
            shapes |= {f"bn.running_{statistic}": (c * self.patch_size**2,) for statistic in ("mean", "var")}
        return shapes

    def _encoder(self) -> Iterator[tuple[str, Shape]]:
        widths = self.encoder_channels
        yield from _conv("encoder.conv_in", 3, widths[0], 3)
        for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            yield from _resnets(f"encoder.down.{i}.block", before, width, self.encoder_blocks)
            if i < len(widths) - 1:
                yield from _conv(f"encoder.down.{i}.downsample.conv", width, width, 3)
        yield from _middle("encoder.mid", widths[-1], self.encoder_attention)
        yield from _norm("encoder.norm_out", widths[-1])
        yield from _conv("encoder.conv_out", widths[-1], 2 * self.latent_channels, 3)

    def _decoder(self) -> Iterator[tuple[str, Shape]]:
        widths = self.decoder_channels
        yield from _conv("decoder.conv_in", self.latent_channels, widths[-1], 3)
        yield from _middle("decoder.mid", widths[-1], self.decoder_attention)
        for i, (width, before) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
            yield from _resnets(f"decoder.up.{i}.block", before, width, self.decoder_blocks)
            if i > 0:
                yield from _conv(f"decoder.up.{i}.upsample.conv", width, width, 3)
        yield from _norm("decoder.norm_out", widths[0])
        yield from _conv("decoder.conv_out", widths[0], 3, 3)


@dataclass(frozen=True)
class TinyConfig:
    """Everything that tells one TAESD-type autoencoder from another.

    encoder_blocks: blocks per stage from full resolution down; decoder_blocks:
    from the latents up; empty where that half is missing. *_pooled: blocks of
    the lowest resolution have a GroupNorm branch (taef2). patch_size: the
    family folds the latents in patches of this side (FLUX.2: 2).
    """

    latent_channels: int
    width: int = 64
    encoder_blocks: tuple[int, ...] = ()
    decoder_blocks: tuple[int, ...] = ()
    encoder_pooled: bool = False
    decoder_pooled: bool = False
    patch_size: int = 1
    kind: ClassVar[str] = "tiny"

    @property
    def has_encoder(self) -> bool:
        return bool(self.encoder_blocks)

    @property
    def has_decoder(self) -> bool:
        return bool(self.decoder_blocks)

    @property
    def downscale(self) -> int:
        """Pixels per cell of the latents, on each side."""
        return 2 ** (len(self.encoder_blocks or self.decoder_blocks) - 1) * self.patch_size

    def shapes(self) -> Shapes:
        """Every tensor of the network's state dict with its shape."""
        shapes: Shapes = {}
        if self.has_encoder:
            shapes |= dict(self._encoder())
        if self.has_decoder:
            shapes |= dict(self._decoder())
        return shapes

    def _encoder(self) -> Iterator[tuple[str, Shape]]:
        width, index, last = self.width, 1, len(self.encoder_blocks) - 1
        yield from _conv("encoder.0", 3, width, 3)
        for stage, blocks in enumerate(self.encoder_blocks):
            if stage > 0:
                yield f"encoder.{index}.weight", (width, width, 3, 3)
                index += 1
            for _ in range(blocks):
                yield from _tiny_block(f"encoder.{index}", width, self.encoder_pooled and stage == last)
                index += 1
        yield from _conv(f"encoder.{index}", width, self.latent_channels, 3)

    def _decoder(self) -> Iterator[tuple[str, Shape]]:
        width, index = self.width, 3
        yield from _conv("decoder.1", self.latent_channels, width, 3)
        for stage, blocks in enumerate(self.decoder_blocks):
            if stage > 0:
                yield f"decoder.{index + 1}.weight", (width, width, 3, 3)
                index += 2
            for _ in range(blocks):
                yield from _tiny_block(f"decoder.{index}", width, self.decoder_pooled and stage == 0)
                index += 1
        yield from _conv(f"decoder.{index}", width, 3, 3)


NetworkConfig = KLConfig | TinyConfig


def _conv(name: str, in_channels: int, out_channels: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out_channels, in_channels, kernel, kernel)
    yield f"{name}.bias", (out_channels,)


def _norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _resnet(name: str, in_channels: int, out_channels: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm1", in_channels)
    yield from _conv(f"{name}.conv1", in_channels, out_channels, 3)
    yield from _norm(f"{name}.norm2", out_channels)
    yield from _conv(f"{name}.conv2", out_channels, out_channels, 3)
    if in_channels != out_channels:
        yield from _conv(f"{name}.nin_shortcut", in_channels, out_channels, 1)


def _resnets(name: str, in_channels: int, out_channels: int, count: int) -> Iterator[tuple[str, Shape]]:
    for j in range(count):
        yield from _resnet(f"{name}.{j}", in_channels if j == 0 else out_channels, out_channels)


def _middle(name: str, channels: int, attention: bool) -> Iterator[tuple[str, Shape]]:
    yield from _resnet(f"{name}.block_1", channels, channels)
    if attention:
        yield from _norm(f"{name}.attn_1.norm", channels)
        for projection in ("q", "k", "v", "proj_out"):
            yield from _conv(f"{name}.attn_1.{projection}", channels, channels, 1)
    yield from _resnet(f"{name}.block_2", channels, channels)


def _tiny_block(name: str, width: int, pooled: bool) -> Iterator[tuple[str, Shape]]:
    for layer in (0, 2, 4):
        yield from _conv(f"{name}.conv.{layer}", width, width, 3)
    if pooled:
        yield f"{name}.pool.0.weight", (4 * width, width, 1, 1)
        yield from _norm(f"{name}.pool.1", 4 * width)
        yield f"{name}.pool.3.weight", (width, 4 * width, 1, 1)

"""A VAE of more channels that begins where two good things are: the best linear code, and a trained decoder.

The encoder begins as the principal components of 8×8 blocks of pixels (for other downscales, of theirs), whitened:
no linear code of as many numbers keeps more of the squared error (Pearson 1901). A KL encoder can be one, but for
three things that are arranged for here: residual blocks and attention add nothing at first; the last GroupNorm divides
by nearly the same number for every picture, since a large constant stands in each group; and each number goes through
the last SiLU twice, with either sign, for SiLU(x) - SiLU(-x) = x. The decoder begins as that of a trained VAE, which
hears the old latents through the linear guess at them that the new ones allow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL, AttnBlock, Downsample, ResnetBlock, Stage

CONSTANT = 10.0
"""Beside numbers of standard deviation 1."""
LOGVAR = -6.0


@torch.no_grad()
def principal(start: KL, channels: int, pictures: Tensor) -> KL:
    """A network of start's shapes with so many latent channels.

    pictures: [B, 3, H, W] in [-1, 1], a few hundred thousand pixels at least.
    Raises ValueError where the shapes leave no room for the code.
    """
    config = replace(start.config, latent_channels=channels)
    _check(config)
    model = KL(config).eval()
    for module in model.modules():
        if isinstance(module, ResnetBlock):
            _zero(module.conv2)
        elif isinstance(module, AttnBlock):
            _zero(module.proj_out)
    _become_code(model, *_components(pictures, config.downscale))
    _let_norm_be(model, pictures)
    _adopt(model, start, pictures)
    return model


def _check(config: KLConfig) -> None:
    widths, groups = config.encoder_channels, config.norm_groups
    room = groups * (widths[-1] // groups - 1)
    if (
        widths[-1] == widths[-2]
        or any(width < 3 * 4**i for i, width in enumerate(widths[:-2]))
        or widths[-2] < config.latent_channels
    ):
        raise ValueError(f"encoder widths {widths} do not hold all pixels of a block on the way down")
    if room < 2 * config.latent_channels:
        raise ValueError(f"{config.latent_channels} channels with both signs and a constant do not fit {widths[-1]}")


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _components(pictures: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Whitening rows [N, N] of the blocks' N = 3·side² numbers, strongest first, and the mean block [N].

    The numbers' order is that in which `_become_code` gathers them: channel, then from the finest step to the coarsest.
    """
    x = pictures
    while side > 1:
        x, side = nn.functional.pixel_unshuffle(x, 2), side // 2
    blocks = x.permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = blocks.mean(0)
    values, vectors = torch.linalg.eigh((blocks - mean).T.cov())
    rows = vectors.T / values.clamp(min=1e-8).sqrt()[:, None]
    return rows.flip(0).float(), mean.float()


def _become_code(model: KL, rows: Tensor, mean: Tensor) -> None:
    """Pixels are gathered, four places into four channels at each step down; the last step turns them into the code."""
    assert model.encoder is not None
    _pass_on(model.encoder.conv_in, 3)
    *stages, turning, _ = _stages(model)
    for count, stage in zip((3 * 4**i for i in range(len(stages))), stages, strict=True):
        _pass_through(stage, count)
        _gather(stage, torch.eye(4 * count), torch.zeros(4 * count))
    _pass_through(turning, 3 * 4 ** len(stages))
    kept = min(model.config.encoder_channels[-2], len(rows))
    _gather(turning, rows[:kept], -rows[:kept] @ mean)
    _arrange(model, kept)


def _pass_through(stage: Stage, count: int) -> None:
    for block in stage.block:
        if isinstance(block, ResnetBlock) and isinstance(block.nin_shortcut, nn.Conv2d):
            _pass_on(block.nin_shortcut, count)


def _gather(stage: Stage, rows: Tensor, bias: Tensor) -> None:
    """Half the side: the first channels are these sums of the 2×2 places of the first channels before."""
    assert isinstance(stage.downsample, Downsample)
    conv, count = stage.downsample.conv, len(rows)
    assert conv.bias is not None
    conv.weight[:count] = 0
    conv.weight[:count, : rows.shape[1] // 4, :2, :2] = rows.view(count, -1, 2, 2)
    conv.bias[:count] = bias


def _stages(model: KL) -> list[Stage]:
    assert model.encoder is not None
    return cast(list[Stage], list(model.encoder.down))


def _pass_on(conv: nn.Conv2d, count: int) -> None:
    """The first channels leave as they come."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:count] = 0
    conv.weight[range(count), range(count), middle, middle] = 1
    conv.bias[:count] = 0  # type: ignore[index]


def _arrange(model: KL, known: int) -> None:
    """The last stage: in each group a constant, numbers of the code with either sign, and what else is known."""
    encoder, config = model.encoder, model.config
    assert encoder is not None
    channels, width = config.latent_channels, config.encoder_channels[-1]
    size = width // config.norm_groups
    constants = range(0, width, size)
    places = sorted((p for p in range(width) if p % size), key=lambda p: (p % size, p))
    block = _stages(model)[-1].block[0]
    assert isinstance(block, ResnetBlock)
    shortcut = block.nin_shortcut
    assert isinstance(shortcut, nn.Conv2d)
    _zero(shortcut)
    shortcut.bias[list(constants)] = CONSTANT  # type: ignore[index]
    for number, place in enumerate(places):
        code = number // 2 if number < 2 * channels else number - channels
        if code < known:
            shortcut.weight[place, code] = -1.0 if number < 2 * channels and number % 2 else 1.0
    _zero(encoder.conv_out)
    for number, place in enumerate(places[: 2 * channels]):
        encoder.conv_out.weight[number // 2, place, 1, 1] = -1.0 if number % 2 else 1.0
    encoder.conv_out.bias[channels:] = LOGVAR  # type: ignore[index]
    for conv in (model.quant_conv, model.post_quant_conv):
        if conv is not None:
            _pass_on(conv, conv.out_channels)


def _let_norm_be(model: KL, pictures: Tensor) -> None:
    """Set the last norm's affine weights so that on average it changes nothing."""
    encoder = model.encoder
    assert encoder is not None
    norm = encoder.norm_out
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        model.moments(pictures)
    finally:
        hook.remove()
    grouped = seen[0].reshape(len(seen[0]), norm.num_groups, -1)
    repeat = norm.num_channels // norm.num_groups
    norm.weight.copy_(grouped.std(2).mean(0).repeat_interleave(repeat))
    norm.bias.copy_(grouped.mean(2).mean(0).repeat_interleave(repeat))


def _adopt(model: KL, start: KL, pictures: Tensor) -> None:
    """start's decoder, its first convolution behind the linear guess at what that was given before."""
    assert model.decoder is not None and start.decoder is not None
    first = start.decoder.conv_in
    z = model.moments(pictures).mean
    old = start.moments(pictures).mean
    old = old if start.post_quant_conv is None else start.post_quant_conv(old)
    ones = torch.ones_like(z[:, :1])
    design = torch.cat([z, ones], 1).permute(0, 2, 3, 1).flatten(0, 2)
    guess = torch.linalg.lstsq(design, old.permute(0, 2, 3, 1).flatten(0, 2)).solution  # [C + 1, old C]
    own = {f"decoder.{k}": v for k, v in start.decoder.state_dict().items() if not k.startswith("conv_in.")}
    model.load_state_dict(own, strict=False)
    conv = model.decoder.conv_in
    assert conv.bias is not None and first.bias is not None
    heard = torch.einsum("oikl,ji->ojkl", first.weight, guess[:-1])
    conv.weight.mul_(0.3).add_(heard)
    conv.bias.copy_(first.bias + torch.einsum("oikl,i->o", first.weight, guess[-1]))

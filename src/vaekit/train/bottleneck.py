"""Another latent space for a trained network, by exact changes to the layers around its latents.

So a VAE of another family begins where the first one is, and is trained on from there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vaekit.networks.config import KLConfig

State = dict[str, Tensor]

FIRST_LOGVAR = -4.0
"""Log-variance of channels that carry nothing yet."""


def turn(state: State, channels: int, *, seed: int, stretch: float) -> State:
    """The same pictures by other latents: turned by a random rotation and stretched; undone before the decoder.

    state: a KL network with both 1×1 convolutions. Log-variances are mixed by
    the squares of the rotation, which is right where they are alike.
    """
    matrix = torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation = torch.linalg.qr(matrix).Q.float()
    mixing = torch.block_diag(stretch * rotation, rotation.square())
    shift = torch.cat([torch.zeros(channels), torch.full((channels,), 2 * torch.tensor(stretch).log().item())])
    turned = dict(state)
    turned["quant_conv.weight"] = torch.einsum("ij,jkhw->ikhw", mixing, state["quant_conv.weight"].float())
    turned["quant_conv.bias"] = mixing @ state["quant_conv.bias"].float() + shift
    turned["post_quant_conv.weight"] = torch.einsum(
        "ijhw,kj->ikhw", state["post_quant_conv.weight"].float(), rotation / stretch
    )
    return turned


def widen(state: State, config: KLConfig, channels: int, *, seed: int) -> tuple[State, KLConfig]:
    """The same pictures by more latent channels: the new ones say something at random, and nobody listens yet."""
    old, new = config.latent_channels, channels
    kept = torch.cat([torch.arange(old), torch.arange(new, new + old)])
    added = torch.arange(old, new)
    wider = dict(state)
    weight, bias = state["encoder.conv_out.weight"].float(), state["encoder.conv_out.bias"].float()
    first = torch.zeros(2 * new, *weight.shape[1:])
    noise = torch.randn(new - old, *weight.shape[1:], generator=torch.Generator().manual_seed(seed))
    first[kept], first[added] = weight, noise * weight[:old].std()
    wider["encoder.conv_out.weight"] = first
    wider["encoder.conv_out.bias"] = torch.cat([torch.zeros(new), torch.full((new,), FIRST_LOGVAR)])
    wider["encoder.conv_out.bias"][kept] = bias
    wider["quant_conv.weight"] = torch.eye(2 * new).view(2 * new, 2 * new, 1, 1)
    wider["quant_conv.weight"][kept[:, None], kept[None]] = state["quant_conv.weight"].float()
    wider["quant_conv.bias"] = torch.zeros(2 * new)
    wider["quant_conv.bias"][kept] = state["quant_conv.bias"].float()
    wider["post_quant_conv.weight"] = torch.eye(new).view(new, new, 1, 1)
    wider["post_quant_conv.weight"][:old, :old] = state["post_quant_conv.weight"].float()
    wider["post_quant_conv.bias"] = torch.zeros(new)
    wider["post_quant_conv.bias"][:old] = state["post_quant_conv.bias"].float()
    listening = state["decoder.conv_in.weight"].float()
    wider["decoder.conv_in.weight"] = torch.zeros(listening.shape[0], new, *listening.shape[2:])
    wider["decoder.conv_in.weight"][:, :old] = listening
    return wider, replace(config, latent_channels=new)

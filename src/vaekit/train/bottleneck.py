"""Another latent space for a trained network, by exact changes to the layers around its latents.

So a VAE of another family begins where the first one is, and is trained on from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def turn(state: State, channels: int, *, seed: int, stretch: float) -> State:
    """The same pictures by other latents: turned by a random rotation and stretched; undone before the decoder.

    state: a KL network with both 1×1 convolutions. Log-variances are mixed by
    the squares of the rotation, which is right where they are alike.
    """
    matrix = torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation = torch.linalg.qr(matrix).Q.float()
    mixing = torch.block_diag(stretch * rotation, rotation.square())  # type: ignore[no-untyped-call]
    shift = torch.cat([torch.zeros(channels), torch.full((channels,), 2 * torch.tensor(stretch).log().item())])
    turned = dict(state)
    turned["quant_conv.weight"] = torch.einsum("ij,jkhw->ikhw", mixing, state["quant_conv.weight"].float())
    turned["quant_conv.bias"] = mixing @ state["quant_conv.bias"].float() + shift
    turned["post_quant_conv.weight"] = torch.einsum(
        "ijhw,kj->ikhw", state["post_quant_conv.weight"].float(), rotation / stretch
    )
    return turned

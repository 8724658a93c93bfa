"""Another number of norm groups for a trained network, so that what it learnt is kept on the whole.

With one channel to a group, group normalisation takes each channel's mean away: the overall colour of a picture is
lost but for what the edges tell, and large pictures come out tinted. Fewer, larger groups keep it. The affine weights
are set so that, on average over the pictures shown, each channel leaves as it did before; then the network is trained
on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaekit.networks.kl import KL


@torch.no_grad()
def regroup(model: KL, groups: int, pictures: Tensor) -> None:
    """Change every GroupNorm of the network in place, by what pictures [B, 3, H, W] in [-1, 1] make of it."""

    def convert(norm: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(norm, nn.GroupNorm)
        x: Tensor = given[0]
        mean, second = (t.flatten(2).mean(2) for t in (x, x.square()))
        before, after = (_moments(mean, second, count) for count in (norm.num_groups, groups))
        norm.bias.add_(norm.weight * (after[0] - before[0]) / before[1])
        norm.weight.mul_(after[1] / before[1])
        norm.num_groups = groups

    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(convert) for norm in norms]
    try:
        model.decode(model.moments(pictures).mean)
    finally:
        for hook in hooks:
            hook.remove()


def _moments(mean: Tensor, second: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that a norm of so many groups subtracts and divides by, for each channel [C]."""
    repeat = mean.shape[1] // groups
    centre = mean.view(-1, groups, repeat).mean(2)
    variance = second.view(-1, groups, repeat).mean(2) - centre.square()
    return centre.mean(0).repeat_interleave(repeat), (variance.mean(0) + 1e-6).sqrt().repeat_interleave(repeat)

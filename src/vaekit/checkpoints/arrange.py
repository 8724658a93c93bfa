"""A VAE's tensors as files have them: names and shapes of a layout, values in a dtype."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vaekit.checkpoints.architecture import squeeze
from vaekit.checkpoints.layouts import Layout, to_layout
from vaekit.errors import OptionError
from vaekit.networks.config import NetworkConfig, TinyConfig


def layouts_of(config: NetworkConfig) -> tuple[Layout, ...]:
    """The layouts that files of such a network come in."""
    if isinstance(config, TinyConfig):
        return ("taesd", "diffusers")
    return ("ldm", "diffusers", "flux") if config.patch_size > 1 else ("ldm", "diffusers")


def arrange(state: Mapping[str, Tensor], config: NetworkConfig, layout: Layout) -> dict[str, Tensor]:
    """A network's tensors (our names) under the names and in the shapes of that layout, sorted by name.

    Values and dtypes stay. Raises OptionError for a layout that such networks do not have.
    """
    if layout not in layouts_of(config):
        raise OptionError(f"a {config.kind} VAE of this kind comes as {' or '.join(layouts_of(config))}, not {layout}")
    stages = 0 if isinstance(config, TinyConfig) else len(config.decoder_channels)
    arranged = {to_layout(name, layout, stages): _shaped(name, tensor, layout) for name, tensor in state.items()}
    return dict(sorted(arranged.items()))


def _shaped(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    """The attention's projections are linear layers in diffusers and 1×1 convolutions everywhere else."""
    shape = squeeze(name, tuple(tensor.shape))
    is_projection = ".attn_1." in name and len(shape) == 4
    return tensor.reshape(shape[:2] if is_projection and layout == "diffusers" else shape)


def count_rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """How many tensors do not keep their exact values in that dtype.

    Raises OptionError where a finite value becomes infinite.
    """
    rounded = 0
    for name, tensor in state.items():
        exact, converted = tensor.to(torch.float64), tensor.to(dtype).to(torch.float64)
        if not bool(torch.isfinite(converted).all()):
            word, end = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
            raise OptionError(f"{name} holds {exact.abs().max():.4g}, and {word} ends at {end:.4g}: take another dtype")
        rounded += not torch.equal(converted, exact)
    return rounded

"""From trained weights to a folder that vaekit and diffusers load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vaekit.checkpoints.layouts import to_diffusers
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL


@torch.no_grad()
def latent_statistics(model: KL, batches: list[Tensor]) -> tuple[float, Tensor, Tensor]:
    """What a family needs to know of its latents, measured on crops [B, 3, H, W] in [-1, 1].

    Gives the scaling factor that brings them to standard deviation 1, and the
    linear factors [C, 3] and bias [3] that draw scaled latents as small RGB
    pictures, by least squares.
    """
    raw = torch.cat([model.moments(x).mean.permute(0, 2, 3, 1).flatten(0, 2) for x in batches])
    small = torch.cat([_cells(x, model.config.downscale) for x in batches])
    scaling = round(1.0 / raw.std().item(), 5)
    design = torch.cat([raw * scaling, torch.ones(len(raw), 1)], dim=1)
    solution = torch.linalg.lstsq(design, small).solution
    return scaling, solution[:-1], solution[-1]


def _cells(x: Tensor, side: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, side).permute(0, 2, 3, 1).flatten(0, 2)


def write_folder(model: KL, scaling_factor: float, folder: Path) -> None:
    """Write config.json and float16 weights in diffusers' names."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    state = {
        to_diffusers(name, len(config.decoder_channels)): _as_diffusers(name, tensor).half().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(diffusers_config(config, scaling_factor), indent=2) + "\n")


def _as_diffusers(name: str, tensor: Tensor) -> Tensor:
    """diffusers keeps the attention's projections as linear layers."""
    is_projection = ".attn_1." in name and tensor.ndim == 4
    return tensor.flatten(1) if is_projection else tensor


def diffusers_config(config: KLConfig, scaling_factor: float) -> Mapping[str, Any]:
    """The config.json of diffusers' AutoencoderKL for a network whose halves have the same widths."""
    stages = len(config.encoder_channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(config.encoder_channels),
        "down_block_types": ["DownEncoderBlock2D"] * stages,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.encoder_blocks,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "sample_size": 256,
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * stages,
    }

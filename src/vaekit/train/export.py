"""From trained weights to a folder that vaekit and diffusers load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.folder import diffusers_config
from vaekit.checkpoints.folder import write_folder as write_files
from vaekit.checkpoints.identify import FAMILY_KEY
from vaekit.checkpoints.write import stored
from vaekit.families import Family, Rgb
from vaekit.files import atomic_write
from vaekit.networks.kl import KL
from vaekit.networks.tiny import Tiny


@torch.no_grad()
def measure_family(model: KL, batches: list[Tensor], name: str) -> Family:
    """What is to be known of the latents of a new network, measured on crops [B, 3, H, W] in [-1, 1].

    The scaling factor brings them to standard deviation 1; the linear factors
    and bias draw scaled latents as small RGB pictures, by least squares.
    """
    raw = torch.cat([model.moments(x).mean.permute(0, 2, 3, 1).flatten(0, 2) for x in batches])
    small = torch.cat([_cells(x, model.config.downscale) for x in batches])
    scaling = round(1.0 / raw.std().item(), 5)
    design = torch.cat([raw * scaling, torch.ones(len(raw), 1)], dim=1)
    *preview, bias = [_rgb(row) for row in torch.linalg.lstsq(design, small).solution]
    return Family(
        name=name,
        latent_channels=model.config.latent_channels,
        downscale=model.config.downscale,
        scaling_factor=scaling,
        preview=tuple(preview),
        preview_bias=bias,
    )


def _rgb(row: Tensor) -> Rgb:
    red, green, blue = row.tolist()
    return round(red, 4), round(green, 4), round(blue, 4)


def _cells(x: Tensor, side: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, side).permute(0, 2, 3, 1).flatten(0, 2)


def write_folder(model: KL | Tiny, family: Family, folder: Path, *, force: bool = False) -> None:
    """Write config.json and float16 weights in diffusers' names, and what is known of the latents as family.toml.

    Raises OutputError (exists without force, no permission, disk full).
    """
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    entries = {name: stored(tensor) for name, tensor in arrange(state, model.config, "diffusers").items()}
    metadata = {"format": "pt", FAMILY_KEY: family.name}
    write_files(folder, diffusers_config(model.config, family), entries, metadata, force=force)
    with atomic_write(folder / "family.toml", force=force) as part:
        part.write_text(_toml(family), "utf-8")


def _toml(family: Family) -> str:
    lines = [
        "# For families.toml: the latent space of this VAE.",
        f"[{family.name}]",
        f"latent_channels = {family.latent_channels}",
        f"downscale = {family.downscale}",
        f"scaling_factor = {family.scaling_factor}",
    ]
    if family.preview is not None:
        lines += ["preview = [", *(f"    {list(row)}," for row in family.preview), "]"]
        lines.append(f"preview_bias = {list(family.preview_bias)}")
    return "\n".join(lines) + "\n"

"""A Stable Diffusion folder of diffusers as one checkpoint in the layout of CompVis/latent-diffusion (ldm)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.identify import FAMILY_KEY
from vaekit.checkpoints.read import Weights, read
from vaekit.checkpoints.sources import open_source
from vaekit.checkpoints.write import Entry, Progress, Written, copied, stored, write
from vaekit.errors import FileError

BAKED = "first_stage_model."
"""Before the names of a VAE's tensors in a whole checkpoint."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def is_pipeline(path: Path) -> bool:
    """Whether this is a folder of a whole model in the layout of diffusers."""
    return (path / "unet" / "config.json").is_file()


def latent_channels(folder: Path) -> int:
    """Of the latents that the model of this folder draws. Raises FileError."""
    return int(_json(folder / "unet" / "config.json").get("out_channels", 4))


def write_single_file(
    folder: Path,
    vae: Path | Weights,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write UNet, text encoder and VAE as one safetensors file, the bytes of the first two as they are.

    folder: unet/ and text_encoder/ with their config.json. vae: any VAE's file
    or folder, or what was read of it; dtype: its new one. Source of the names:
    CompVis/stable-diffusion, as diffusers' `from_single_file` reads them.
    Raises FileError, OutputError.
    """
    if (folder / "text_encoder_2").exists():
        raise FileError(f"{folder}: a model of two text encoders, which vaekit does not write into one file")
    entries = {**_unet(folder / "unet"), **_text(folder / "text_encoder")}
    weights = read(vae) if isinstance(vae, Path) else vae
    named = arrange(weights.state, weights.identity.config, "ldm")
    entries |= {BAKED + name: stored(tensor, dtype) for name, tensor in named.items()}
    families = weights.identity.families
    metadata = _metadata(folder) | ({FAMILY_KEY: families[0].name} if len(families) == 1 else {})
    return write(out, entries, metadata, force=force, progress=progress)


def _metadata(folder: Path) -> dict[str, str]:
    """What the tensors do not tell, in the words of modelspec."""
    path = folder / "scheduler" / "scheduler_config.json"
    kind = _json(path).get("prediction_type", "epsilon") if path.exists() else "epsilon"
    short = {"epsilon": "epsilon", "v_prediction": "v"}.get(str(kind), str(kind))
    return {"format": "pt", "modelspec.title": folder.name, "modelspec.prediction_type": short}


def _unet(folder: Path) -> dict[str, Entry]:
    config = _json(folder / "config.json")
    blocks, attention_up = shape_of_unet(config)
    source = open_source(folder / "diffusion_pytorch_model.safetensors")
    return {
        f"model.diffusion_model.{unet_name(name, blocks, attention_up)}": copied(source, name)
        for name in source.tensors
    }


def shape_of_unet(config: Mapping[str, Any]) -> tuple[int, list[bool]]:
    """What `unet_name` has to know: residual blocks per stage, and which stages on the way up have attention."""
    return int(config["layers_per_block"]), ["CrossAttn" in kind for kind in config["up_block_types"]]


def unet_name(name: str, blocks: int, attention_up: list[bool]) -> str:
    """A UNet's tensor by its original name; `blocks` per stage on the way down, one more on the way up."""
    for ours, theirs in OUTSIDE.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if middle := MIDDLE.fullmatch(name):
        kind, index, rest = middle[1], int(middle[2]), middle[3]
        return f"middle_block.{2 * index if kind == 'resnets' else 1}.{_inside(kind, rest)}"
    block = BLOCK.fullmatch(name)
    if block is None:
        raise FileError(f"{name}: no tensor of a Stable Diffusion UNet that vaekit knows")
    way, stage, kind, index, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    if way == "down_blocks":
        number = 1 + stage * (blocks + 1) + (blocks if kind == "downsamplers" else index)
        inner = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        return f"input_blocks.{number}.{inner}.{_inside(kind, rest)}"
    number = stage * (blocks + 1) + (blocks if kind == "upsamplers" else index)
    inner = {"resnets": "0", "attentions": "1", "upsamplers": f"{1 + attention_up[stage]}.conv"}[kind]
    return f"output_blocks.{number}.{inner}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    """The name within a block; transformers are named alike on both sides."""
    if kind == "attentions":
        return rest
    layer, _, leaf = rest.rpartition(".")
    return f"{RESNET[layer]}.{leaf}" if kind == "resnets" else leaf


def _text(folder: Path) -> dict[str, Entry]:
    source = open_source(folder / "model.safetensors")
    stems = {name: name if name.startswith("text_model.") else f"text_model.{name}" for name in source.tensors}
    return {f"cond_stage_model.transformer.{stem}": copied(source, name) for name, stem in stems.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FileError(f"{path}: not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise FileError(f"{path}: no JSON object")
    return loaded

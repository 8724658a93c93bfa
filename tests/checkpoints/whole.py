"""Whole checkpoints of Stable Diffusion 1.x's names, generated: small shapes, random weights, any VAE inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from checkpoints.making import kl_state, save_safetensors
from conftest import SMALL_KL
from torch import Tensor

from vaekit.checkpoints.layouts import to_diffusers

HEADER = Path(__file__).parents[1] / "data" / "headers" / "v1-5-pruned-emaonly.json"
PREFIX = "first_stage_model."
DTYPES = {"F32": torch.float16, "I32": torch.int32, "I64": torch.int64}
METADATA = {"format": "pt", "modelspec.title": "a model – with “quotes”", "ss_epoch": "7"}


def surroundings(dtypes: Iterable[torch.dtype] = (torch.float16,), seed: int = 0) -> dict[str, Tensor]:
    """SD 1.5's tensors without the VAE's: every name, tiny shapes, any bits (NaN among them), dtypes in turn."""
    generator = torch.Generator().manual_seed(seed)
    kinds = list(dtypes)
    tensors = {}
    for number, (name, (dtype, shape)) in enumerate(json.loads(HEADER.read_text())["tensors"].items()):
        if name.startswith(PREFIX):
            continue
        kind = kinds[number % len(kinds)] if dtype == "F32" else DTYPES[dtype]
        small = [min(side, 3) for side in shape]
        count = kind.itemsize * torch.Size(small).numel()
        bits = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
        tensors[name] = bits.view(kind).reshape(small)
    return tensors


def checkpoint(
    path: Path,
    vae: Mapping[str, Tensor] | None = None,
    *,
    others: Mapping[str, Tensor] | None = None,
    metadata: dict[str, str] | None = METADATA,
) -> Path:
    """A whole checkpoint as safetensors; vae: our names, SMALL_KL's weights if None, none if empty."""
    inside = kl_state(0, SMALL_KL) if vae is None else vae
    state = dict(others if others is not None else surroundings())
    state |= {PREFIX + name: tensor for name, tensor in inside.items()}
    return save_safetensors(state, path, metadata)


def in_diffusers_names(state: Mapping[str, Tensor], *, old: bool = False) -> dict[str, Tensor]:
    """SMALL_KL's weights as diffusers names them, in its old names too."""
    named = {}
    for name, tensor in state.items():
        theirs = to_diffusers(name, stages=len(SMALL_KL.decoder_channels))
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            theirs = theirs.replace(f".{new}.", f".{before}.") if old else theirs
        named[theirs] = tensor.flatten(1) if ".attentions." in theirs and tensor.ndim == 4 else tensor
    return named

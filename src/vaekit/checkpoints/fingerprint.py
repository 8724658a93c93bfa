"""A hash of a VAE's weights that stays the same under another name, layout, container or storage dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

HALVES = {
    "encoder": ("encoder.", "quant_conv.", "bn."),
    "decoder": ("decoder.", "post_quant_conv.", "bn."),
}
"""How the names of each half's tensors begin; both use the batch statistics of FLUX.2."""


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 in hexadecimal of each half (None where it is missing) and of both together."""

    vae: str
    encoder: str | None
    decoder: str | None

    def __str__(self) -> str:
        return self.vae


def fingerprint(state: Mapping[str, Tensor]) -> Fingerprint:
    """state: a VAE's tensors under our names.

    Values are hashed as float16, so that a float32 file and its float16 copy are
    the same VAE. A bfloat16 copy is not: it has lost digits that float16 keeps.
    """
    halves = {half: _hash(tensors) if (tensors := half_of(state, half)) else None for half in HALVES}
    both = hashlib.sha256(f"encoder {halves['encoder']} decoder {halves['decoder']}".encode()).hexdigest()
    return Fingerprint(both, **halves)


def half_of(state: Mapping[str, T], half: str) -> dict[str, T]:
    """What belongs to the encoder or the decoder, by our names; nothing where that half is missing."""
    if not any(name.startswith(f"{half}.") for name in state):
        return {}
    return {name: tensor for name, tensor in state.items() if name.startswith(HALVES[half])}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.numel()}\n".encode())
        # through float32: the narrow float8 dtypes convert to nothing else on every platform
        digest.update(tensor.to(torch.float32).to(torch.float16).contiguous().numpy().data)
    return digest.hexdigest()

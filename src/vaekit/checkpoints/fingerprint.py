"""A hash of a VAE's weights that stays the same under another name, layout, container or storage dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


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
    decoder = {name for name in state if name.startswith(("decoder.", "post_quant_conv.", "bn."))}
    encoder = {name for name in state if name.startswith(("encoder.", "quant_conv.", "bn."))}
    halves = {
        "encoder": _hash({name: state[name] for name in encoder}) if _has(encoder, "encoder.") else None,
        "decoder": _hash({name: state[name] for name in decoder}) if _has(decoder, "decoder.") else None,
    }
    both = hashlib.sha256(f"encoder {halves['encoder']} decoder {halves['decoder']}".encode()).hexdigest()
    return Fingerprint(both, **halves)


def _has(names: set[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.numel()}\n".encode())
        # through float32: the narrow float8 dtypes convert to nothing else on every platform
        digest.update(tensor.to(torch.float32).to(torch.float16).contiguous().numpy().data)
    return digest.hexdigest()

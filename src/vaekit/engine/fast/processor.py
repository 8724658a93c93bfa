"""What the processor multiplies bfloat16 with."""

from __future__ import annotations

import torch


def multiplies_pairs() -> bool:
    """Pairs of its numbers (AVX-512 BF16), more than twice as fast as float32."""
    return _has("_is_avx512_bf16_supported")


def multiplies_tiles() -> bool:
    """Tiles of it (AMX), many times as fast as float32."""
    return _has("_is_amx_tile_supported")


def _has(name: str) -> bool:
    ask = getattr(torch.cpu, name, None)
    return ask is not None and bool(ask())

"""Tensors as the bytes that safetensors files hold."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vaekit.checkpoints.sources import PIECE

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def dtype_name(dtype: torch.dtype) -> str:
    """In the notation of safetensors; torch's own name, in capitals, for what those files have no place for."""
    return DTYPES.get(dtype, str(dtype).removeprefix("torch.").upper())


def pieces_of(tensor: Tensor) -> Iterator[memoryview]:
    """A CPU tensor's values, the last axis running fastest, in pieces of at most PIECE bytes."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]

"""Numpy arrays and tensors as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.errors import PictureError
from vaekit.images.pictures import Pictures, from_levels

# Rounding carries the floats of other tools a little outside their range.
TOLERANCE = 1e-3


def from_array(array: np.ndarray, name: str) -> Pictures:
    """[H, W], [H, W, C] or [B, H, W, C] with C of 1 to 4; uint8, uint16, or float in [0, 1]."""
    shape = array.shape
    batch = array[None, ..., None] if array.ndim == 2 else array[None] if array.ndim == 3 else array
    if batch.ndim != 4 or 0 in shape or batch.shape[3] > 4:
        raise PictureError(
            f"{name}: a numpy picture is [H, W], [H, W, channels] or [B, H, W, channels] with 1 to 4 channels, "
            f"not {list(shape)}"
        )
    channels = np.moveaxis(batch, -1, 1)
    white = _white_of_dtype(channels.dtype, name)
    if white == 1:
        _check_range(float(channels.min()), float(channels.max()), 0, name, "numpy pictures in floats are in [0, 1]")
        channels = channels.clip(0, 1)
    if channels.shape[1] in (1, 3):
        return from_levels(channels, white, None)
    alpha = np.rint(channels[:, -1:] * (255 / white)).astype(np.uint8)
    return from_levels(channels[:, :-1], white, alpha)


def _white_of_dtype(dtype: np.dtype[Any], name: str) -> int:
    if dtype.kind == "f":
        return 1
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return 255 if dtype.itemsize == 1 else 65535
    raise PictureError(f"{name}: a numpy picture is uint8, uint16, or float in [0, 1], not {dtype}")


def from_tensor(tensor: Tensor, name: str) -> Pictures:
    """[3, H, W] or [B, 3, H, W]; float in [-1, 1], or uint8."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise PictureError(f"{name}: a tensor picture is dense and holds data; this one is {tensor.layout}")
    batch = tensor[None] if tensor.ndim == 3 else tensor
    if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        raise PictureError(f"{name}: a tensor picture is [3, H, W] or [B, 3, H, W], not {list(tensor.shape)}")
    if batch.dtype == torch.uint8:
        return from_levels(batch.cpu().numpy(), 255, None)
    if not batch.is_floating_point():
        raise PictureError(f"{name}: a tensor picture is float in [-1, 1] or uint8, not {tensor.dtype}")
    pixels = batch.detach().to("cpu", torch.float32)
    low, high = (float(bound) for bound in pixels.aminmax())
    _check_range(low, high, -1, name, "tensor pictures in floats are in [-1, 1] (numpy arrays in [0, 1])")
    return Pictures(pixels.clamp(-1, 1), None, ())


def _check_range(low: float, high: float, bottom: int, name: str, rule: str) -> None:
    if low != low or high != high:
        raise PictureError(f"{name}: holds NaN; {rule}")
    if low < bottom - TOLERANCE or high > 1 + TOLERANCE:
        raise PictureError(f"{name}: values from {low:g} to {high:g}; {rule}")

"""Padding to what a network takes, and cropping back."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.errors import PictureError


def pad(pixels: Tensor, multiple: int) -> Tensor:
    """Pad right and bottom by reflection up to the next multiple, as numpy's pad does with mode="reflect".

    pixels: [..., H, W] of any size from 1×1: what is padded may be wider than the
    picture, which is then reflected again and again (one pixel is repeated).
    Returns `pixels` itself where nothing is missing.
    """
    for dimension in (-1, -2):
        length = pixels.shape[dimension]
        if length % multiple:
            index = reflected(length, -(-length // multiple) * multiple).to(pixels.device)
            pixels = pixels.index_select(dimension, index)
    return pixels


def reflected(length: int, target: int) -> Tensor:
    """Where each of `target` positions looks in a line of `length`: 0 1 2 3 2 1 0 1 …"""
    period = max(1, 2 * (length - 1))
    steps = torch.arange(target) % period
    return torch.minimum(steps, period - steps)


def crop(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `pad`: the top left (width, height) of [..., H, W]. Raises PictureError where that is more than there is."""
    width, height = size
    if height > pixels.shape[-2] or width > pixels.shape[-1]:
        raise PictureError(f"a picture of {pixels.shape[-1]}×{pixels.shape[-2]} cannot be cropped to {width}×{height}")
    return pixels[..., :height, :width]

"""How many bits: latents rounded and counted, and what PNG, JPEG and WebP take for as good a picture."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from vaekit.quality.metrics import psnr

QUALITIES = range(1, 101)


def rounded(tensor: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Latents [1, C, h, w] with 2^bits equal steps from the least to the greatest value of each channel.

    Gives the rounded latents and the numbers of the steps.
    """
    low, high = tensor.amin((2, 3), keepdim=True), tensor.amax((2, 3), keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    numbers = ((tensor - low) / step).round()
    return numbers * step + low, numbers.long()


def entropy(numbers: Tensor) -> float:
    """Bits that an ideal coder takes for the numbers [1, C, h, w], knowing how often each comes in its channel.

    Shannon 1948: neighbours are not looked at, so a better coder may take less.
    """
    bits = 0.0
    for channel in numbers[0]:
        counts = torch.unique(channel, return_counts=True)[1].double()
        shares = counts / counts.sum()
        bits += float(-(shares * shares.log2()).sum() * channel.numel())
    return bits


def encoded_size(picture: Image.Image, format: str, **options: object) -> tuple[int, Image.Image]:
    """Bits of the file, and what comes out of it."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    with Image.open(io.BytesIO(buffer.getvalue())) as back:
        return 8 * len(buffer.getvalue()), back.convert("RGB")


def as_good_as(picture: Image.Image, format: str, target: float) -> tuple[int, float, int, Image.Image]:
    """The smallest file of a lossy format with at least that PSNR in dB: bits, its PSNR, its quality, the result.

    The best of the format, quality 100, where none is so good. Source of the search: PSNR grows with quality.
    """

    def tried(quality: int) -> tuple[int, float, int, Image.Image]:
        bits, back = encoded_size(picture, format, quality=quality)
        return bits, psnr(picture, back), quality, back

    return _first(tried, target)


def _first(
    tried: Callable[[int], tuple[int, float, int, Image.Image]], target: float
) -> tuple[int, float, int, Image.Image]:
    low, high = QUALITIES[0], QUALITIES[-1]
    best = tried(high)
    while low < high:
        middle = (low + high) // 2
        found = tried(middle)
        if found[1] >= target:
            best, high = found, middle
        else:
            low = middle + 1
    return best

"""Nearest enlargement and the 3×3 convolution after it, as one transposed convolution.

A pixel of the enlarged picture is one of four copies of a cell, so that a 3×3
kernel over pixels is, for each of the four, a 2×2 kernel over cells: 16 instead
of 36 products per cell, and no enlarged picture. The four together are one
4×4 kernel of a transposed convolution with stride 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch.nn.functional as F
from torch import Tensor

from vaekit.networks.config import PaddingMode


def fold(weight: Tensor) -> Tensor:
    """weight: [out, in, 3, 3] of the convolution -> [in, out, 4, 4] of the transposed one, summed in float32."""
    out, channels = weight.shape[:2]
    folded = weight.new_empty((channels, out, 4, 4))
    for down, right, row, column, share in _shares(weight):
        folded[:, :, 3 - down - 2 * row, 3 - right - 2 * column] = share.T
    return folded


def quarters(weight: Tensor) -> Iterator[Tensor]:
    """The same as four kernels [out, in, 2, 2], one for each of a cell's pixels; channels innermost in memory."""
    out, channels = weight.shape[:2]
    for _, _, row, column, share in _shares(weight):
        if not row and not column:
            kernel = weight.new_empty((out, 2, 2, channels))
        kernel[:, row, column] = share
        if row and column:
            yield kernel.permute(0, 3, 1, 2)


def _shares(weight: Tensor) -> Iterator[tuple[int, int, int, int, Tensor]]:
    """(down, right, row, column, [out, in]): what a cell of the 2×2 gives to one of the four pixels."""
    seen = ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3)))  # by each of two pixels, of each of two cells
    for down, right, row, column in product((0, 1), repeat=4):
        pixels = weight[:, :, seen[down][row], seen[right][column]]
        yield down, right, row, column, pixels.float().sum((2, 3)).to(weight.dtype)


def enlarge(x: Tensor, folded: Tensor, bias: Tensor | None, padding: PaddingMode) -> Tensor:
    """x: [B, C, h, w] -> [B, out, 2h, 2w], what the convolution gives for x enlarged, edges included.

    Beyond an edge mirrored pixels are copies of the edge's own cell, and the other
    edge's pixel is one of the other edge's cell; zeros stay zeros.
    """
    if padding == "zeros":
        return F.conv_transpose2d(x, folded, bias, stride=2, padding=1)
    return F.conv_transpose2d(cells_beyond(x, padding), folded, bias, stride=2, padding=3)


def cells_beyond(x: Tensor, padding: PaddingMode) -> Tensor:
    """x with the cells of which the pixels beyond its edges are made, where those are not zeros."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate" if padding == "reflect" else "circular")

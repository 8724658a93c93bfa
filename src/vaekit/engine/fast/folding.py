"""Nearest enlargement and the 3×3 convolution after it, as one transposed convolution.

A pixel of the enlarged picture is one of four copies of a cell, so that a 3×3
kernel over pixels is, for each of the four, a 2×2 kernel over cells: 16 instead
of 36 products per cell, and no enlarged picture. The four together are one
4×4 kernel of a transposed convolution with stride 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.networks.config import PaddingMode


def fold(weight: Tensor) -> Tensor:
    """weight: [out, in, 3, 3] of the convolution -> [in, out, 4, 4] of the transposed one, summed in float32."""
    enlarged = torch.zeros(*weight.shape[:2], 4, 4, device=weight.device)
    for down in (0, 1):
        for right in (0, 1):
            enlarged[:, :, down : down + 3, right : right + 3] += weight.float()
    return enlarged.flip(2, 3).transpose(0, 1).to(weight.dtype).contiguous()


def enlarge(x: Tensor, folded: Tensor, bias: Tensor | None, padding: PaddingMode) -> Tensor:
    """x: [B, C, h, w] -> [B, out, 2h, 2w], what the convolution gives for x enlarged, edges included.

    Beyond an edge mirrored pixels are copies of the edge's own cell, and the other
    edge's pixel is one of the other edge's cell; zeros stay zeros.
    """
    if padding == "zeros":
        return F.conv_transpose2d(x, folded, bias, stride=2, padding=1)
    beyond = F.pad(x, (1, 1, 1, 1), mode="replicate" if padding == "reflect" else "circular")
    return F.conv_transpose2d(beyond, folded, bias, stride=2, padding=3)

"""A convolution together with the addition and activation after it, in one pass over memory.

oneDNN does that; PyTorch reaches it through the operators that its own compiler
uses. Where they are missing, the same is done one after the other, in place.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, pad: Pair = (0, 0), relu: bool = False
) -> Tensor:
    """x: [B, C, H, W] -> [B, out, H', W'], with ReLU where asked."""
    if relu and _fusing(x):
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, [*pad], [stride] * 2, [1, 1], 1, "relu", [], "")
    out = F.conv2d(x, weight, bias, stride=stride, padding=pad)
    return out.relu_() if relu else out


def add_convolved(
    into: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    pad: Pair = (0, 0),
    relu: bool = False,
) -> Tensor:
    """into += convolution of x, then ReLU where asked; `into` is written over and given back."""
    if _fusing(x) and into.is_contiguous(memory_format=torch.channels_last):
        arguments: tuple[Any, ...] = ([*pad], [stride] * 2, [1, 1], 1, "add", 1.0, "relu" if relu else None, [], None)
        return torch.ops.mkldnn._convolution_pointwise_.binary(into, x, weight, bias, *arguments)
    into += F.conv2d(x, weight, bias, stride=stride, padding=pad)
    return into.relu_() if relu else into


def point(rows: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1×1 convolution of cells [..., channels], as a product of matrices."""
    return F.linear(rows, conv.weight.flatten(1), conv.bias)


def point_into(rows: Tensor, conv: nn.Conv2d, out: Tensor) -> None:
    """The same into an array [..., out] that is there, in one piece."""
    weight, cells, made = conv.weight.flatten(1).T, rows.reshape(-1, rows.shape[-1]), out.view(-1, out.shape[-1])
    if conv.bias is None:
        torch.mm(cells, weight, out=made)
    else:
        torch.addmm(conv.bias, cells, weight, out=made)


def packed(weight: Tensor, x: Tensor, *, stride: int = 1, pad: Pair = (0, 0)) -> Tensor:
    """The weights of a convolution as `add_convolved` is quickest with on arrays like x: in oneDNN's own order."""
    if not _fusing(x):
        return weight.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, [*pad], [stride] * 2, [1, 1], 1, [*x.shape])


def fusing(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether convolutions add to an array that is there, without one of their own for what they add."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and _works(dtype)


def _fusing(x: Tensor) -> bool:
    return fusing(x.device, x.dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has the operators, and they compute what they should."""
    x = torch.linspace(-1, 1, 32, dtype=dtype).view(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ones(2, 2, 1, 1, dtype=dtype), torch.zeros(2, dtype=dtype)
    asked = ([0, 0], [1, 1], [1, 1], 1)
    try:
        order = torch.ops.mkldnn._reorder_convolution_weight(weight, *asked, [*x.shape])
        one = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *asked, "relu", [], "")
        into = x.clone()
        two = torch.ops.mkldnn._convolution_pointwise_.binary(
            into, x, order, bias, *asked, "add", 1.0, "relu", [], None
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    plain = F.conv2d(x, weight, bias)
    return _near(one, plain.relu()) and _near(two, (x + plain).relu())


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=2e-2, atol=2e-2)

"""A 3×3 convolution with a quarter of the multiplications (Winograd 1980; Lavin & Gray 2015, arXiv:1509.09308).

A tile of 6×6 numbers gives 4×4 results. As polynomials, the tile and the kernel
are evaluated at six points along each side, 0, ±5/8, ±3/2 and infinity; multiplied
there, 36 instead of 144 multiplications, which over all channels and tiles are 36
products of matrices; and the results are read off again. With these points rounding
in float32 costs at most twice as much as in the direct sum (with many channels no
more than there), and half of what it costs with the usual 0, ±1 and ±2.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.engine.strips.line import TILES

if TYPE_CHECKING:
    from vaekit.engine.fast.tiles import Kernels

SMALL, LARGE = 0.625, 1.5
"""The points, with both signs."""
LOADING = 80 << 20
"""Bytes that LLVM takes; 73 MiB were measured."""


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it can be had: on a CPU, in float32, with LLVM, which compiles the loops over tiles."""
    return device.type == "cpu" and dtype == torch.float32 and importlib.util.find_spec("llvmlite") is not None


def loading() -> int:
    """Bytes that LLVM will take; 0 where it is there."""
    return 0 if _kernels.cache_info().currsize else LOADING


def weights_at_points(weight: Tensor) -> Tensor:
    """weight: [out, channels, 3, 3] of a convolution -> [36, channels, out]."""
    points = torch.tensor(_kernel_at_points())
    out, channels = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, channels * out)
    return torch.mm(torch.kron(points, points), flat).view(36, channels, out)


def _points(x0: Any, x1: Any, x2: Any, x3: Any, x4: Any, x5: Any) -> Sequence[Any]:
    """Six neighbours, as values at the points."""
    both, either = SMALL**2 * LARGE**2, SMALL**2 + LARGE**2
    even_small, odd_small = x4 - LARGE**2 * x2, SMALL * (x3 - LARGE**2 * x1)
    even_large, odd_large = x4 - SMALL**2 * x2, LARGE * (x3 - SMALL**2 * x1)
    return (
        both * x0 - either * x2 + x4,
        even_small + odd_small,
        even_small - odd_small,
        even_large + odd_large,
        even_large - odd_large,
        both * x1 - either * x3 + x5,
    )


def _neighbours(p0: Any, p1: Any, p2: Any, p3: Any, p4: Any, p5: Any) -> Sequence[Any]:
    """Products at the points, as four neighbours."""
    even_small, odd_small, even_large, odd_large = p1 + p2, p1 - p2, p3 + p4, p3 - p4
    return (
        p0 + even_small + even_large,
        SMALL * odd_small + LARGE * odd_large,
        SMALL**2 * even_small + LARGE**2 * even_large,
        SMALL**3 * odd_small + LARGE**3 * odd_large + p5,
    )


def _kernel_at_points() -> list[list[float]]:
    """[6, 3]: a kernel's values at the points, over the products of each point's distances from the others."""
    points = (0.0, SMALL, -SMALL, LARGE, -LARGE)
    rows = []
    for at in points:
        distances = 1.0
        for other in points:
            distances *= at - other if other != at else 1.0
        rows.append([at**power / distances for power in range(3)])
    return [*rows, [0.0, 0.0, 1.0]]


def convolve(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    out: Tensor,
    take: Callable[[int], Tensor],
    *,
    margin: tuple[int, int] = (0, 0),
    enlarged: bool = False,
    add: bool = False,
    relu: bool = False,
) -> None:
    """Fill rows `out` [h, w, K], or add to them, with the convolution of rows x [h', w', C], in float32.

    x and out lie in one piece. weights: of `weights_at_points`; C and K are multiples of LANES. margin: rows and columns
    of x above and left of the first result, whose kernel sees one of each; what is not there is zeros. enlarged: x stands
    for a picture of twice its size, whose pixels margin counts. take(n): an array of n numbers to work in, the same
    every time.
    """
    assert all(one.is_contiguous() and one.dtype == torch.float32 for one in (x, weights, out))
    kernels = _kernels()
    across, down = -(-out.shape[1] // 4), -(-out.shape[0] // 4)
    channels, width = weights.shape[1:]
    offset = torch.zeros(width) if bias is None else bias
    for first in range(0, across * down, TILES):
        count = min(TILES, across * down - first)
        work, values_end = take(36 * count * (channels + width)), 36 * count * channels
        values, products = work[:values_end].view(36, count, channels), work[values_end:].view(36, count, width)
        seen = x.data_ptr(), *x.shape, enlarged, *margin
        _shared(kernels.into, count, *seen, across, first, count * channels, values.data_ptr())
        torch.bmm(values, weights, out=products)
        source, target = (products.data_ptr(), offset.data_ptr()), (out.data_ptr(), *out.shape[:2])
        _shared(kernels.back, count, *source, count * width, width, across, first, *target, add, relu)


def _shared(work: Callable[..., None], count: int, *arguments: Any) -> None:
    """work(first, last, *arguments) for all of `count`, by as many threads as PyTorch uses."""
    parts = max(1, min(torch.get_num_threads(), count))
    edges = [count * i // parts for i in range(parts + 1)]
    others = [_pool().submit(work, *edge, *arguments) for edge in pairwise(edges[1:])]
    work(0, edges[1], *arguments)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="vaekit-winograd")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a child


@cache
def _kernels() -> Kernels:
    from vaekit.engine.fast import tiles

    return tiles.compiled(_points, _neighbours)

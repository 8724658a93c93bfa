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
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vaekit.engine.strips.line import TILES

log = logging.getLogger("vaekit")

SMALL, LARGE = 0.625, 1.5
"""The points, with both signs."""
LOADING = 160 << 20
"""Bytes; 124 MiB were measured where the kernels came from the disk, 153 where they were compiled."""


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it can be had: on a CPU, in float32, with numba, which compiles the changes of basis."""
    return device.type == "cpu" and dtype == torch.float32 and importlib.util.find_spec("numba") is not None


def loading() -> int:
    """Bytes that numba and what it compiles will take; 0 where they are there."""
    return 0 if _kernels.cache_info().currsize else LOADING


def weights_at_points(weight: Tensor) -> Tensor:
    """weight: [out, channels, 3, 3] of a convolution -> [36, channels, out]."""
    points = torch.tensor(_kernel_at_points())
    out, channels = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, channels * out)
    return torch.mm(torch.kron(points, points), flat).view(36, channels, out)


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

    weights: of `weights_at_points`. margin: rows and columns of x above and left of the first result, whose kernel sees
    one of each; what is not there is zeros. enlarged: x stands for a picture of twice its size, whose pixels margin
    counts. take(n): an array of n numbers to work in, the same every time. x and out have their channels innermost.
    """
    into, back = _kernels()
    across, down = -(-out.shape[1] // 4), -(-out.shape[0] // 4)
    channels, width = weights.shape[1:]
    offset = torch.zeros(width) if bias is None else bias
    source, target, shift = x.numpy(), out.numpy(), offset.numpy()
    for first in range(0, across * down, TILES):
        count = min(TILES, across * down - first)
        work, values_end = take(36 * count * (channels + width)), 36 * count * channels
        values, products = work[:values_end].view(36, count, channels), work[values_end:].view(36, count, width)
        _shared(into, count, source, int(enlarged), *margin, across, first, values.numpy())
        torch.bmm(values, weights, out=products)
        _shared(back, count, products.numpy(), shift, across, first, target, add, relu)


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
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """Compiled when first used, or read from numba's cache on the disk."""
    log.info("Winograd's convolution is loaded; its first time on a machine takes some seconds")
    from vaekit.engine.fast import tiles

    return tiles.into, tiles.back

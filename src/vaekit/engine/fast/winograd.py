"""A 3×3 convolution with a quarter of the multiplications (Winograd 1980; Lavin & Gray 2015, arXiv:1509.09308).

A tile of 6×6 numbers gives 4×4 results. As polynomials, the tile and the kernel
are evaluated at six points along each side, 0, ±5/8, ±3/2 and infinity; multiplied
there, 36 instead of 144 multiplications, which over all channels and tiles are 36
products of matrices; and the results are read off again. In float32, which is
what it computes with, rounding makes an error of a millionth of what results
deviate from zero: half of what it is with the usual points, 0, ±1 and ±2, and in
bfloat16 nothing beside the rounding of the results themselves.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.engine.fast import processor
from vaekit.engine.fast.threads import by_all_threads
from vaekit.engine.strips.line import LANES, points_numbers, tiles_at_once

if TYPE_CHECKING:
    from vaekit.engine.fast.tiles import Kernels

SMALL, LARGE = 0.625, 1.5
"""The points, with both signs."""
LOADING = 86 << 20
"""Bytes that LLVM takes, 73 MiB as measured, and what a run takes beside its arrays only with it."""


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it can be had, and is quicker: on a CPU, in float32, or in bfloat16 where that is less than four times
    as quick in products; with LLVM, which compiles the loops over tiles."""
    quicker = dtype == torch.float32 or (dtype == torch.bfloat16 and not processor.multiplies_tiles())
    return device.type == "cpu" and quicker and importlib.util.find_spec("llvmlite") is not None


def loading() -> int:
    """Bytes that LLVM will take; 0 where it is there."""
    return 0 if _kernels.cache_info().currsize else LOADING


def weights_at_points(weight: Tensor, take: Callable[..., Tensor] | None = None) -> Tensor:
    """weight: [out, channels, 3, 3] of a convolution, float32 or bfloat16 -> [36, out / LANES, channels, LANES].

    That lies, in float32, in an array from take(*shape), one of weight's dtype.
    """
    out, channels = weight.shape[:2]
    made = _floats(take or weight.new_empty, weight, 36, out // LANES, channels, LANES)
    if not weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous()
    steps = weight.stride(1), weight.stride(3)
    by_all_threads(_kernels(weight.dtype).weigh, channels, out, *steps, weight.data_ptr(), made.data_ptr())
    return made


def _kernel(w0: Any, w1: Any, w2: Any) -> Sequence[Any]:
    """Three weights, as values at the points, over the product of each point's distances from the others."""
    values = []
    points = (0.0, SMALL, -SMALL, LARGE, -LARGE)
    for at in points:
        distances = math.prod(at - other for other in points if other != at)
        values.append((1 / distances) * w0 + (at / distances) * w1 + (at**2 / distances) * w2)
    return [*values, w2]


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
    """Fill rows `out` [h, w, K], or add to them, with the convolution of rows x [h', w', C].

    Both are in float32 or both in bfloat16, and lie in one piece. weights: of `weights_at_points`; C and K are
    multiples of LANES. margin: rows and columns of x above and left of the first result, whose kernel sees one of each;
    what is not there is zeros. enlarged: x stands for a picture of twice its size, whose pixels margin counts. take(n):
    an array of n numbers of x's dtype to work in, the same every time.
    """
    assert all(one.is_contiguous() for one in (x, weights, out)) and x.dtype == out.dtype
    across, down = -(-out.shape[1] // 4), -(-out.shape[0] // 4)
    work = x.shape[2], out.shape[2], across * down, torch.get_num_threads()
    space, offset = _floats(take, x, points_numbers(*work)), torch.zeros(out.shape[2]) if bias is None else bias.float()
    seen, made = (*x.shape, enlarged, *margin), (*out.shape, across, add, relu)
    arrays = (one.data_ptr() for one in (x, weights, offset, out, space))
    by_all_threads(_kernels(x.dtype).run, across * down, tiles_at_once(*work), *seen, *made, *arrays)


def _floats(take: Callable[..., Tensor], of: Tensor, *shape: int) -> Tensor:
    """An array of float32, from a `take` that gives those of another's dtype."""
    *before, last = shape
    return take(*before, last * 4 // of.dtype.itemsize).view(torch.float32)


@cache
def _kernels(dtype: torch.dtype) -> Kernels:
    from vaekit.engine.fast import loops, tiles

    return tiles.compiled(_points, _neighbours, _kernel, loops.BFLOAT if dtype == torch.bfloat16 else loops.FLOAT)

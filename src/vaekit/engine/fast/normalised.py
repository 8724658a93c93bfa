"""GroupNorm's two passes over memory by loops of our own: one gathers, the other normalises and goes through SiLU."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.engine.fast.threads import by_all_threads
from vaekit.engine.strips import statistics
from vaekit.engine.strips.line import LANES
from vaekit.engine.strips.statistics import Affine, Statistics

if TYPE_CHECKING:
    from vaekit.engine.fast.channels import Kernels

PART = 1 << 16
"""Numbers that are gathered together: they stay in a core's cache, and few enough are added up in float32."""


def add(to: Statistics, rows: Tensor) -> None:
    """to.add(rows), [n, width, channels]."""
    cells, channels = rows.flatten(0, 1), rows.shape[2]
    if channels % LANES or not rows.is_contiguous() or rows.dtype not in (torch.float32, torch.bfloat16):
        to.add(rows)
        return
    part = max(1, PART // channels)
    starts = torch.arange(0, cells.shape[0], part)
    means, squares = torch.empty(2, len(starts), channels).unbind()
    arrays = (one.data_ptr() for one in (rows, means, squares))
    by_all_threads(_kernels(rows.dtype).gather, cells.shape[0], part, channels, *arrays)
    to.merge((cells.shape[0] - starts).clamp(max=part), means, squares)


def activate(x: Tensor, affine: Affine | None, before: str | None, out: Tensor) -> None:
    """out = before(norm(x)) as `statistics.activate`, rounded once. x, out: [rows, width, channels], of one dtype."""
    rows, width, channels = x.shape
    if (
        affine is None
        or before != "silu"
        or channels % LANES
        or not (x[:1].is_contiguous() and out[:1].is_contiguous())
    ):
        statistics.activate(x, affine, before, out)
        return
    mean = torch.zeros_like(affine.shift) if affine.mean is None else affine.mean
    arrays = (one.data_ptr() for one in (x, mean, affine.scale, affine.shift, out))
    by_all_threads(_kernels(x.dtype).activate, rows, 1, width * channels, channels, x.stride(0), out.stride(0), *arrays)


@cache
def _kernels(dtype: torch.dtype) -> Kernels:
    from vaekit.engine.fast import channels, loops

    return channels.compiled(loops.BFLOAT if dtype == torch.bfloat16 else loops.FLOAT)

"""GroupNorm's two passes over memory by loops of our own: one gathers, the other normalises and goes through SiLU."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.engine.fast.threads import by_all_threads
from vaekit.engine.strips import statistics
from vaekit.engine.strips.line import LANES
from vaekit.engine.strips.statistics import Affine, Statistics

if TYPE_CHECKING:
    from llvmlite import ir

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
    by_all_threads(_kernels(rows.dtype)[0], cells.shape[0], part, channels, *arrays)
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
    by_all_threads(_kernels(x.dtype)[1], rows, 1, width * channels, channels, x.stride(0), out.stride(0), *arrays)


@cache
def _kernels(dtype: torch.dtype) -> tuple[int, int, Any]:
    """Addresses of two functions, of numbers as `add` and `activate` give them after two of 0, and what they are in."""
    from llvmlite import ir

    from vaekit.engine.fast import loops

    module, kind = ir.Module("normalised"), loops.BFLOAT if dtype == torch.bfloat16 else loops.FLOAT
    _write_gather(module, kind)
    _write_activate(module, kind)
    code = loops.machine_code(module)
    return code.get_function_address("gather"), code.get_function_address("activate"), code


def _write_gather(module: ir.Module, kind: ir.Type) -> None:
    """(0, 0, cells, part, channels, x, means, squares): of each part of x [cells, channels] the mean of each channel,
    and the sum of squared differences from it. Sums are of differences from the part's first cell."""
    from vaekit.engine.fast.loops import (
        FLOAT,
        Numbers,
        begun_by_threads,
        in_all_lanes,
        loop,
        moved,
        shared,
        summing,
        whole,
    )

    build, _, taken, (cells, part, channels), (x, means, squares) = begun_by_threads(module, "gather", 3, 3)
    start = whole(0)
    with shared(build, taken, part, cells) as (first, count):
        source = moved(build, x, build.mul(first, channels), kind)
        to = build.mul(build.udiv(first, part), channels)
        share = in_all_lanes(build, build.fdiv(FLOAT(1.0), build.sitofp(count, FLOAT)))
        with loop(build, start, channels, LANES) as channel:
            pivot = Numbers.read(build, source, channel, kind)
            with summing(build, start, count, 1, 2) as (cell, sums):
                apart = Numbers.read(build, source, build.add(build.mul(cell, channels), channel), kind) - pivot
                sums[:] = [sums[0] + apart, sums[1] + apart * apart]
            (pivot + sums[0] * share).write(means, build.add(to, channel))
            (sums[1] - sums[0] * sums[0] * share).write(squares, build.add(to, channel))
    build.ret_void()


def _write_activate(module: ir.Module, kind: ir.Type) -> None:
    """(0, 0, rows, at_once, size, channels, apart, out_apart, x, mean, scale, shift, out): rows of `size` numbers that
    begin so far apart."""
    from vaekit.engine.fast.loops import Numbers, begun_by_threads, loop, moved, same, shared, whole

    build, _, taken, given, (x, mean, scale, shift, out) = begun_by_threads(module, "activate", 6, 5)
    rows, at_once, size, channels, apart, out_apart = given
    with shared(build, taken, at_once, rows) as (row, _):
        source, target = (moved(build, array, build.mul(row, by), kind) for array, by in ((x, apart), (out, out_apart)))
        with loop(build, whole(0), size, channels) as pixel, loop(build, whole(0), channels, LANES) as channel:
            middle, factor, added = (Numbers.read(build, array, channel) for array in (mean, scale, shift))
            place = build.add(pixel, channel)
            value = (Numbers.read(build, source, place, kind) - middle) * factor + added
            falling = (-math.log2(math.e) * value).power_of_two()
            (value / (Numbers(build, same(1.0)) + falling)).write(target, place, kind)
    build.ret_void()

"""The loops of `normalised`, written for LLVM: what is done to each channel of a norm by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from vaekit.engine.fast.loops import (
    FLOAT,
    Numbers,
    begun_by_threads,
    in_all_lanes,
    loop,
    machine_code,
    moved,
    same,
    shared,
    summing,
    whole,
)
from vaekit.engine.strips.line import LANES


@dataclass(frozen=True)
class Kernels:
    """The addresses of functions of the address of a row of numbers of 64 bits; several threads may run one together,
    as those of `tiles`.

    gather: (0, 0, cells, part, channels, x, means, squares): of each part of x [cells, channels] the mean of each
    channel, and the sum of squared differences from it. Sums are of differences from the part's first cell.

    activate: (0, 0, rows, at_once, size, channels, apart, out_apart, x, mean, scale, shift, out): rows of `size`
    numbers that begin so far apart.
    """

    gather: int
    activate: int
    code: Any = field(repr=False)
    """What they are in; it must live as long as they do."""


def compiled(kind: ir.Type) -> Kernels:
    """kind: of the numbers in x and out."""
    module = ir.Module("channels")
    _write_gather(module, kind)
    _write_activate(module, kind)
    code = machine_code(module)
    return Kernels(code.get_function_address("gather"), code.get_function_address("activate"), code)


def _write_gather(module: ir.Module, kind: ir.Type) -> None:
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

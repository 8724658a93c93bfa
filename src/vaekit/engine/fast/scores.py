"""The loops of `attention`, written for LLVM, which makes machine code for the processor they run on.

PyTorch multiplies bfloat16 no faster than float32 here where the processor has no
tiles of it; pairs of its numbers are multiplied more than twice as fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from vaekit.engine.fast.loops import (
    BFLOAT,
    FLOAT,
    Numbers,
    begun_by_threads,
    loop,
    machine_code,
    moved,
    rows_in_registers,
    shared,
    whole,
    write_products,
)
from vaekit.engine.strips.line import LANES

TOGETHER = 128
"""Keys that are looked at together."""


@dataclass(frozen=True)
class Kernels:
    """The addresses of functions of the address of a row of numbers of 64 bits; several threads may run one together,
    as those of `tiles`.

    arrange: (0, 0, keys, depth, width, key_step, value_step, keys, values, panels, blocks): rows of keys and of values,
    a step of numbers of 32 bits from one to the next, as `gather` wants them.

    gather: (0, 0, rows, at_once, keys, depth, width, scale, queries, keys, values, gathered, highest, total, space).
    rows: of queries. at_once: how many a thread takes. Both are multiples of TILES. keys: how many there are. depth:
    numbers of 32 bits in a row of queries. width: channels of values.

    scale: [1], of products as powers of two. queries: [rows, depth]. keys: [n / LANES, depth, LANES], n a multiple of
    TOGETHER. values: [n / TOGETHER, width / LANES, TOGETHER, LANES]. In pairs of bfloat16 [TOGETHER / 2, LANES, 2].
    gathered: [rows, width], highest: [rows] and total: [rows, LANES] are as earlier keys left them. space: for each
    thread 2 × at_once × TOGETHER numbers to work in.
    """

    arrange: int
    gather: int
    code: Any = field(repr=False)
    """What they are in; it must live as long as they do."""


def compiled(*, pairs: bool) -> Kernels:
    """pairs: of bfloat16, else numbers of float32."""
    module = ir.Module("scores")
    _write_arrange(module, pairs)
    _write_gather(module, write_products(module, rows_in_registers(), pairs=pairs), pairs)
    code = machine_code(module)
    return Kernels(code.get_function_address("arrange"), code.get_function_address("gather"), code)


def _write_arrange(module: ir.Module, pairs: bool) -> None:
    build, _, taken, given, arrays = begun_by_threads(module, "arrange", 5, 4)
    count, depth, width, key_step, value_step = given
    keys, values, panels, blocks = arrays
    kind, pair = (BFLOAT, 2) if pairs else (FLOAT, 1)
    with shared(build, taken, whole(TOGETHER), count) as (first, _):
        with loop(build, first, build.add(first, whole(TOGETHER)), LANES) as key:
            rows = [moved(build, keys, build.mul(build.add(key, whole(lane)), key_step)) for lane in range(LANES)]
            panel = moved(build, panels, build.mul(key, depth))
            with loop(build, whole(0), depth) as word:
                Numbers.gathered(build, rows, word, FLOAT).write(panel, build.mul(word, whole(LANES)))
        block = moved(build, blocks, build.udiv(build.mul(first, width), whole(pair)))
        source = moved(build, values, build.mul(first, value_step))
        with loop(build, whole(0), width, LANES) as channel, loop(build, whole(0), whole(TOGETHER), pair) as key:
            beside = (moved(build, source, build.mul(build.add(key, whole(i)), value_step)) for i in range(pair))
            found = [Numbers.read(build, row, channel, kind) for row in beside]
            place = build.add(build.mul(channel, whole(TOGETHER)), build.mul(key, whole(LANES)))
            made = found[0].paired(found[1]) if pairs else found[0]
            made.write(block, build.udiv(place, whole(pair)))
    build.ret_void()


def _write_gather(module: ir.Module, products: ir.Function, pairs: bool) -> None:
    build, thread, taken, given, arrays = begun_by_threads(module, "gather", 5, 8)
    rows, at_once, count, depth, width = given
    scale, queries, keys, values, gathered, highest, total, space = arrays
    at_a_time = whole(TOGETHER // 2 if pairs else TOGETHER)
    area = build.mul(at_once, whole(TOGETHER))
    scores = moved(build, space, build.mul(thread, build.mul(area, whole(2))))
    shares = moved(build, scores, area)
    with shared(build, taken, at_once, rows) as (first, some):
        wanted, to = moved(build, queries, build.mul(first, depth)), moved(build, gathered, build.mul(first, width))
        with loop(build, whole(0), count, TOGETHER) as begin:
            block = moved(build, keys, build.mul(begin, depth))
            build.call(products, [wanted, block, scores, some, depth, whole(TOGETHER), whole(1)])
            left = build.sub(count, begin)
            with loop(build, whole(0), some) as row:
                place = build.add(first, row)
                _write_shares(
                    build,
                    moved(build, scores, build.mul(row, whole(TOGETHER))),
                    moved(build, shares, build.mul(row, at_a_time)),
                    moved(build, to, build.mul(row, width)),
                    moved(build, highest, place),
                    moved(build, total, build.mul(place, whole(LANES))),
                    Numbers.alike(build, scale, whole(0)),
                    left,
                    width,
                    BFLOAT if pairs else FLOAT,
                )
            of_block = build.mul(build.udiv(begin, whole(TOGETHER)), build.mul(at_a_time, width))
            build.call(products, [shares, moved(build, values, of_block), to, some, at_a_time, width, whole(0)])
    build.ret_void()


def _write_shares(
    build: ir.IRBuilder,
    scores: ir.Value,
    shares: ir.Value,
    gathered: ir.Value,
    highest: ir.Value,
    total: ir.Value,
    scale: Numbers,
    left: ir.Value,
    width: ir.Value,
    kind: ir.Type,
) -> None:
    """Of one query: its scores become shares, powers of two beside the highest so far, to which what was gathered
    before and its total are brought as well."""
    start, columns = whole(0), [whole(column) for column in range(0, TOGETHER, LANES)]
    found = [(Numbers.read(build, scores, column) * scale).only(build.sub(left, column)) for column in columns]
    before = Numbers.alike(build, highest, start)
    best = before
    for one in found:
        best = best.larger(one)
    best = best.largest()
    best.write_first(highest)
    shrink = (before - best).power_of_two()
    summed = Numbers.read(build, total, start) * shrink
    for column, one in zip(columns, found, strict=True):
        share = (one - best).power_of_two()
        share.write(shares, column, kind)
        summed = summed + share
    summed.write(total, start)
    with loop(build, start, width, LANES) as channel:
        (Numbers.read(build, gathered, channel) * shrink).write(gathered, channel)

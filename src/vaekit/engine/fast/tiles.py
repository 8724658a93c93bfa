"""The loops of `winograd`, written for LLVM, which makes machine code for the processor they run on.

As products with matrices of 36×36 its two changes of basis take six times the
arithmetic, and copies before and after. Here a tile is taken LANES channels at a
time, from its pixels to its last number without touching memory in between. The
products are made in the same place, some tiles at a time, so that their numbers
stay in the cache of the core that works on them and no core waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from vaekit.engine.fast.loops import (
    FLOAT,
    Numbers,
    begun,
    begun_by_threads,
    loop,
    machine_code,
    moved,
    multiple,
    row_apart,
    rows_in_registers,
    shared,
    smaller,
    whole,
    write_products,
)
from vaekit.engine.strips.line import LANES, TILES, WIDE

Change = Callable[..., Sequence[Any]]
"""A change of basis along one side, numbers in and numbers out, by sums, differences and factors in front."""


@dataclass(frozen=True)
class Kernels:
    """Addresses of two functions, each of the address of a row of numbers of 64 bits. Several threads may run one
    together on the same row, whose first two numbers are 0 at first: how many threads have come, and how much of the
    work they have taken. The last ones are addresses of arrays: of the `kind` they were compiled for where they hold a
    convolution's weight, x or out, else of float32. Channels are multiples of LANES.

    weigh: (0, 0, channels, out_channels, apart, between, weight, at_points): weight [out_channels, channels, 9] of a
    convolution -> [36, out_channels / LANES, channels, LANES]. apart, between: how many numbers lie from one channel,
    and from one of the nine, to the next.

    run: (0, 0, tiles, at_once, height, width, channels, enlarged, above, left, out_height, out_width, out_channels,
    across, add, relu, x, weights, bias, out, space): rows x [height, width, channels] -> out [out_height, out_width,
    out_channels], with zeros around x. tiles: how many there are. at_once: how many a thread takes. enlarged: 1 where
    each number stands for 2×2 pixels. above, left: pixels above and left of the first result. across: tiles in a row.
    add: 1 where results are added to what is there. relu: 1 where negative ones become 0. weights: what `weigh` made.
    space: `points_numbers` to work in.
    """

    weigh: int
    run: int
    code: Any = field(repr=False)
    """What they are in; it must live as long as they do."""


def compiled(points: Change, neighbours: Change, kernel: Change, kind: ir.Type = FLOAT) -> Kernels:
    """points: six neighbours, as values at the points. neighbours: products at the points, as four neighbours.
    kernel: three weights, as values at the points. kind: of what is convolved, FLOAT or BFLOAT."""
    module, block = ir.Module("tiles"), rows_in_registers()
    _write_weigh(module, kernel, kind)
    parts = _write_into(module, points, kind), write_products(module, block), _write_back(module, neighbours, kind)
    _write_run(module, *parts, block, kind)
    code = machine_code(module)
    return Kernels(code.get_function_address("weigh"), code.get_function_address("run"), code)


# What they do


def _write_weigh(module: ir.Module, kernel: Change, kind: ir.Type) -> None:
    build, _, taken, given, (weight, at_points) = begun_by_threads(module, "weigh", 4, 2)
    channels, out_channels, apart, between = given
    size, row = build.mul(channels, out_channels), build.mul(channels, whole(9))
    with shared(build, taken, whole(1), build.udiv(out_channels, whole(LANES))) as (block, _):
        first, lanes = build.mul(block, whole(LANES)), range(LANES)
        rows = [build.mul(build.add(first, whole(lane)), row) for lane in lanes]
        to = moved(build, at_points, build.mul(first, channels))
        with loop(build, whole(0), channels) as channel:
            at = [moved(build, weight, build.add(one, build.mul(channel, apart)), kind) for one in rows]
            taps = [Numbers.gathered(build, at, build.mul(between, whole(tap)), kind) for tap in range(9)]
            half = [kernel(*taps[column::3]) for column in range(3)]
            done = [number for of_row in zip(*half, strict=True) for number in kernel(*of_row)]
            for n, number in enumerate(done):
                number.write(moved(build, to, build.mul(size, whole(n))), build.mul(channel, whole(LANES)))
    build.ret_void()


def _write_run(
    module: ir.Module, into: ir.Function, products: ir.Function, back: ir.Function, block: int, kind: ir.Type
) -> None:
    build, thread, taken, given, (x, weights, bias, out, space) = begun_by_threads(module, "run", 14, 5)
    tiles, at_once, height, width, channels, enlarged, above, left = given[:8]
    out_height, out_width, out_channels, across, add, relu = given[8:]
    capacity = multiple(build, at_once, TILES)
    step, out_step = build.mul(capacity, channels), build.mul(capacity, smaller(build, out_channels, whole(WIDE)))
    space = moved(build, space, build.mul(thread, build.mul(build.add(step, out_step), whole(36))))
    results = moved(build, space, build.mul(step, whole(36)))
    size = build.mul(channels, out_channels)
    with shared(build, taken, at_once, tiles) as (first, count):
        build.call(into, [count, x, height, width, channels, enlarged, above, left, across, first, step, space])
        rows = multiple(build, count, block)
        with loop(build, whole(0), out_channels, WIDE) as begin:
            wide = smaller(build, whole(WIDE), build.sub(out_channels, begin))
            parts = (space, step), (moved(build, weights, build.mul(begin, channels)), size), (results, out_step)
            with loop(build, whole(0), whole(36)) as point:
                arrays = [moved(build, array, build.mul(point, by)) for array, by in parts]
                build.call(products, [*arrays, rows, channels, wide, whole(1)])
            places = [count, out_step, wide, out_channels, across, first, out_height, out_width, add, relu]
            build.call(back, [*places, results, moved(build, bias, begin), moved(build, out, begin, kind)])
    build.ret_void()


def _write_into(module: ir.Module, points: Change, kind: ir.Type) -> ir.Function:
    """Tiles -> values [36, step], so many of them from `offset` on."""
    build, given = begun(module, "into", "nannnnnnnnna")
    count, x, height, width, channels, enlarged, above, left, across, offset, step, values = given
    nothing = row_apart(build, channels, kind)
    with loop(build, whole(0), count) as place:
        top, side = _corner(build, build.add(place, offset), across)
        rows = _seen(build, build.add(top, build.sub(above, whole(1))), 6, height, enlarged)
        columns = _seen(build, build.add(side, build.sub(left, whole(1))), 6, width, enlarged)
        pixels = _pixels(build, x, rows, columns, width, channels, nothing, kind)
        to = moved(build, values, build.mul(place, channels))
        with loop(build, whole(0), channels, LANES) as channel:
            tile = [[Numbers.read(build, pixel, channel, kind) for pixel in row] for row in pixels]
            half = [points(*column) for column in zip(*tile, strict=True)]
            done = [number for row in zip(*half, strict=True) for number in points(*row)]
            for n, number in enumerate(done):
                number.write(moved(build, to, build.mul(step, whole(n))), channel)
    build.ret_void()
    return build.function


def _write_back(module: ir.Module, neighbours: Change, kind: ir.Type) -> ir.Function:
    """products [36, step] -> so many tiles of out, from `offset` on: some channels of `apart`."""
    build, given = begun(module, "back", "nnnnnnnnnnaaa")
    count, step, channels, apart, across, offset, height, width, add, relu, products, bias, out = given
    add, relu = (build.trunc(one, ir.IntType(1)) for one in (add, relu))
    nothing, nowhere = (row_apart(build, channels, kind) for _ in range(2))
    with loop(build, whole(0), count) as place:
        top, side = _corner(build, build.add(place, offset), across)
        rows, columns = (_seen(build, *line, whole(0)) for line in ((top, 4, height), (side, 4, width)))
        pixels = _pixels(build, out, rows, columns, width, apart, nowhere, kind)
        source = moved(build, products, build.mul(place, channels))
        with loop(build, whole(0), channels, LANES) as channel:
            at = [moved(build, source, build.mul(step, whole(n))) for n in range(36)]
            tile = [Numbers.read(build, one, channel) for one in at]
            half = [neighbours(*tile[column::6]) for column in range(6)]
            shift = Numbers.read(build, bias, channel)
            for row, of_row in zip(pixels, zip(*half, strict=True), strict=True):
                for pixel, number in zip(row, neighbours(*of_row), strict=True):
                    there = Numbers.read(build, build.select(add, pixel, nothing), channel, kind)
                    (number + shift + there).zero_below(relu).write(pixel, channel, kind)
    build.ret_void()
    return build.function


def _corner(build: ir.IRBuilder, tile: ir.Value, across: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The row and the column where a tile begins."""
    return build.mul(build.udiv(tile, across), whole(4)), build.mul(build.urem(tile, across), whole(4))


def _seen(
    build: ir.IRBuilder, first: ir.Value, count: int, limit: ir.Value, enlarged: ir.Value
) -> list[tuple[ir.Value, ir.Value]]:
    """Of rows, or columns, from `first` on: where in memory, and whether they are inside."""
    places = [build.add(first, whole(i)) for i in range(count)]
    end = build.shl(limit, enlarged)
    return [(build.lshr(place, enlarged), build.icmp_unsigned("<", place, end)) for place in places]


def _pixels(
    build: ir.IRBuilder,
    picture: ir.Value,
    rows: list[tuple[ir.Value, ir.Value]],
    columns: list[tuple[ir.Value, ir.Value]],
    width: ir.Value,
    channels: ir.Value,
    outside: ir.Value,
    kind: ir.Type,
) -> list[list[ir.Value]]:
    """The addresses of pixels [height, width, channels], by row and column."""

    def pixel(row: ir.Value, column: ir.Value) -> ir.Value:
        return moved(build, picture, build.mul(build.add(build.mul(row, width), column), channels), kind)

    return [
        [build.select(build.and_(is_row, is_column), pixel(row, column), outside) for column, is_column in columns]
        for row, is_row in rows
    ]

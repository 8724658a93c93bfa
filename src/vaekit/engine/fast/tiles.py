"""The loops of `winograd`, written for LLVM, which makes machine code for the processor they run on.

As products with matrices of 36×36 its two changes of basis take six times the
arithmetic, and copies before and after. Here a tile is taken LANES channels at a
time, from its pixels to its last number without touching memory in between. The
products are made in the same place, some tiles at a time, so that their numbers
stay in the cache of the core that works on them and no core waits for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from vaekit.engine.strips.line import LANES, TILES, WIDE

NEAREST = 2
DEPTH, UNROLLED = 128, 4
"""Of a product of matrices: numbers of each row at a time, and of these in one turn of a loop."""
FLOAT, WHOLE, ADDRESS = ir.FloatType(), ir.IntType(64), ir.PointerType()
BFLOAT = ir.IntType(16)
"""A number of bfloat16: the upper half of one of float32."""
NUMBERS, BITS = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)

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
    module, block = ir.Module("tiles"), _rows_in_registers()
    _write_weigh(module, kernel, kind)
    parts = _write_into(module, points, kind), _write_products(module, block), _write_back(module, neighbours, kind)
    _write_run(module, *parts, block, kind)
    code = _machine_code(module)
    return Kernels(code.get_function_address("weigh"), code.get_function_address("run"), code)


def _rows_in_registers() -> int:
    """A divisor of TILES: of sums, LANES in each; AVX-512 has twice as many registers of twice the size."""
    return 12 if llvm.get_host_cpu_features().get("avx512f") else 6


def _machine_code(module: ir.Module) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    return llvm.create_mcjit_compiler(parsed, target)


# What they do


def _write_weigh(module: ir.Module, kernel: Change, kind: ir.Type) -> None:
    build, _, taken, given, (weight, at_points) = _begun_by_threads(module, "weigh", 4, 2)
    channels, out_channels, apart, between = given
    size, row = build.mul(channels, out_channels), build.mul(channels, _number(9))
    with _shared(build, taken, _number(1), build.udiv(out_channels, _number(LANES))) as (block, _):
        first, lanes = build.mul(block, _number(LANES)), range(LANES)
        rows = [build.mul(build.add(first, _number(lane)), row) for lane in lanes]
        to = _moved(build, at_points, build.mul(first, channels))
        with _loop(build, _number(0), channels) as channel:
            at = [_moved(build, weight, build.add(one, build.mul(channel, apart)), kind) for one in rows]
            taps = [_Numbers.gathered(build, at, build.mul(between, _number(tap)), kind) for tap in range(9)]
            half = [kernel(*taps[column::3]) for column in range(3)]
            done = [number for of_row in zip(*half, strict=True) for number in kernel(*of_row)]
            for n, number in enumerate(done):
                number.write(_moved(build, to, build.mul(size, _number(n))), build.mul(channel, _number(LANES)))
    build.ret_void()


def _write_run(
    module: ir.Module, into: ir.Function, products: ir.Function, back: ir.Function, block: int, kind: ir.Type
) -> None:
    build, thread, taken, given, (x, weights, bias, out, space) = _begun_by_threads(module, "run", 14, 5)
    tiles, at_once, height, width, channels, enlarged, above, left = given[:8]
    out_height, out_width, out_channels, across, add, relu = given[8:]
    capacity = _multiple(build, at_once, TILES)
    step, out_step = build.mul(capacity, channels), build.mul(capacity, _smaller(build, out_channels, _number(WIDE)))
    space = _moved(build, space, build.mul(thread, build.mul(build.add(step, out_step), _number(36))))
    results = _moved(build, space, build.mul(step, _number(36)))
    size = build.mul(channels, out_channels)
    with _shared(build, taken, at_once, tiles) as (first, count):
        build.call(into, [count, x, height, width, channels, enlarged, above, left, across, first, step, space])
        rows = _multiple(build, count, block)
        with _loop(build, _number(0), out_channels, WIDE) as begin:
            wide = _smaller(build, _number(WIDE), build.sub(out_channels, begin))
            parts = (space, step), (_moved(build, weights, build.mul(begin, channels)), size), (results, out_step)
            with _loop(build, _number(0), _number(36)) as point:
                arrays = [_moved(build, array, build.mul(point, by)) for array, by in parts]
                build.call(products, [*arrays, rows, channels, wide])
            places = [count, out_step, wide, out_channels, across, first, out_height, out_width, add, relu]
            build.call(back, [*places, results, _moved(build, bias, begin), _moved(build, out, begin, kind)])
    build.ret_void()


def _write_into(module: ir.Module, points: Change, kind: ir.Type) -> ir.Function:
    """Tiles -> values [36, step], so many of them from `offset` on."""
    build, given = _begun(module, "into", "nannnnnnnnna")
    count, x, height, width, channels, enlarged, above, left, across, offset, step, values = given
    nothing = _row_apart(build, channels, kind)
    with _loop(build, _number(0), count) as place:
        top, side = _corner(build, build.add(place, offset), across)
        rows = _seen(build, build.add(top, build.sub(above, _number(1))), 6, height, enlarged)
        columns = _seen(build, build.add(side, build.sub(left, _number(1))), 6, width, enlarged)
        pixels = _pixels(build, x, rows, columns, width, channels, nothing, kind)
        to = _moved(build, values, build.mul(place, channels))
        with _loop(build, _number(0), channels, LANES) as channel:
            tile = [[_Numbers.read(build, pixel, channel, kind) for pixel in row] for row in pixels]
            half = [points(*column) for column in zip(*tile, strict=True)]
            done = [number for row in zip(*half, strict=True) for number in points(*row)]
            for n, number in enumerate(done):
                number.write(_moved(build, to, build.mul(step, _number(n))), channel)
    build.ret_void()
    return build.function


def _write_products(module: ir.Module, block: int) -> ir.Function:
    """x [rows, depth] times weights [width / LANES, depth, LANES] -> out [rows, width].

    block × LANES sums stay in registers while they grow, and DEPTH × LANES weights in the nearest cache, as Goto and
    van de Geijn 2008 ("Anatomy of High-Performance Matrix Multiplication") do it. Sums of DEPTH numbers are summed
    again, which rounds less than one long sum.
    """
    build, given = _begun(module, "products", "aaannn")
    x, weights, out, rows, depth, width = given
    nothing = _row_apart(build, _number(LANES), FLOAT)
    with _loop(build, _number(0), depth, DEPTH) as done:
        steps = _smaller(build, _number(DEPTH), build.sub(depth, done))
        at_first = build.icmp_signed("==", done, _number(0))
        with _loop(build, _number(0), width, LANES) as column:
            panel = _moved(build, weights, build.add(build.mul(column, depth), build.mul(done, _number(LANES))))
            coming = _moved(build, panel, build.mul(depth, _number(LANES)))
            with _loop(build, _number(0), rows, block) as first:
                every = [build.add(first, _number(row)) for row in range(block)]
                sources = [_moved(build, x, build.add(build.mul(row, depth), done)) for row in every]
                targets = [_moved(build, out, build.add(build.mul(row, width), column)) for row in every]
                fetched = build.select(build.icmp_signed("==", first, _number(0)), coming, panel)
                for number, target in zip(_summed(build, steps, sources, panel, fetched), targets, strict=True):
                    before = _Numbers.read(build, build.select(at_first, nothing, target), _number(0))
                    (before + number).write(target, _number(0))
    build.ret_void()
    return build.function


def _summed(
    build: ir.IRBuilder, steps: ir.Value, sources: list[ir.Value], panel: ir.Value, coming: ir.Value
) -> list[_Numbers]:
    """For each source the sum of its numbers times the rows of the panel [steps, LANES]. coming: a panel that is
    brought near meanwhile, for the next sums."""
    before = build.block
    with _loop(build, _number(0), steps, UNROLLED) as at:
        body = build.block
        build.position_after(at)
        kept = [build.phi(NUMBERS) for _ in sources]
        build.position_at_end(body)
        grown = [_Numbers(build, one) for one in kept]
        for place in (build.add(at, _number(step)) for step in range(UNROLLED)):
            weights = _Numbers.read(build, panel, build.mul(place, _number(LANES)))
            _bring_near(build, _moved(build, coming, build.mul(place, _number(LANES))))
            factors = [_Numbers.alike(build, source, place) for source in sources]
            grown = [number + factor * weights for number, factor in zip(grown, factors, strict=True)]
        for phi, number in zip(kept, grown, strict=True):
            phi.add_incoming(_same(0.0), before)
            phi.add_incoming(number.value, build.block)
    return [_Numbers(build, one) for one in kept]


def _write_back(module: ir.Module, neighbours: Change, kind: ir.Type) -> ir.Function:
    """products [36, step] -> so many tiles of out, from `offset` on: some channels of `apart`."""
    build, given = _begun(module, "back", "nnnnnnnnnnaaa")
    count, step, channels, apart, across, offset, height, width, add, relu, products, bias, out = given
    add, relu = (build.trunc(one, ir.IntType(1)) for one in (add, relu))
    nothing, nowhere = (_row_apart(build, channels, kind) for _ in range(2))
    with _loop(build, _number(0), count) as place:
        top, side = _corner(build, build.add(place, offset), across)
        rows, columns = (_seen(build, *line, _number(0)) for line in ((top, 4, height), (side, 4, width)))
        pixels = _pixels(build, out, rows, columns, width, apart, nowhere, kind)
        source = _moved(build, products, build.mul(place, channels))
        with _loop(build, _number(0), channels, LANES) as channel:
            at = [_moved(build, source, build.mul(step, _number(n))) for n in range(36)]
            tile = [_Numbers.read(build, one, channel) for one in at]
            half = [neighbours(*tile[column::6]) for column in range(6)]
            shift = _Numbers.read(build, bias, channel)
            for row, of_row in zip(pixels, zip(*half, strict=True), strict=True):
                for pixel, number in zip(row, neighbours(*of_row), strict=True):
                    there = _Numbers.read(build, build.select(add, pixel, nothing), channel, kind)
                    (number + shift + there).zero_below(relu).write(pixel, channel, kind)
    build.ret_void()
    return build.function


# What they are written with


class _Numbers:
    """Those of LANES channels, in the code that is being written: a sum of two writes an addition."""

    def __init__(self, build: ir.IRBuilder, value: ir.Value):
        self._build, self.value = build, value

    @classmethod
    def read(cls, build: ir.IRBuilder, row: ir.Value, channel: ir.Value, kind: ir.Type = FLOAT) -> _Numbers:
        array = ir.VectorType(kind, LANES)
        return cls(build, _widened(build, build.load(_moved(build, row, channel, kind), align=2, typ=array)))

    @classmethod
    def alike(cls, build: ir.IRBuilder, row: ir.Value, place: ir.Value) -> _Numbers:
        """One number of a row, in all lanes."""
        one = build.load(_moved(build, row, place), align=4, typ=FLOAT)
        nothing = ir.Constant(NUMBERS, ir.Undefined)
        first = build.insert_element(nothing, one, ir.Constant(ir.IntType(32), 0))
        return cls(build, build.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)))

    @classmethod
    def gathered(cls, build: ir.IRBuilder, rows: Sequence[ir.Value], place: ir.Value, kind: ir.Type) -> _Numbers:
        """One number of each row, one in each lane."""
        value: ir.Value = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
        for lane, row in enumerate(rows):
            one = build.load(_moved(build, row, place, kind), align=2, typ=kind)
            value = build.insert_element(value, one, ir.Constant(ir.IntType(32), lane))
        return cls(build, _widened(build, value))

    def write(self, row: ir.Value, channel: ir.Value, kind: ir.Type = FLOAT) -> None:
        build = self._build
        value = self.value if kind == FLOAT else _narrowed(build, self.value)
        build.store(value, _moved(build, row, channel, kind), align=2)

    def __add__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self._build, self._build.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self._build, self._build.fsub(self.value, other.value, flags=("contract",)))

    def __mul__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self._build, self._build.fmul(self.value, other.value, flags=("contract",)))

    def __rmul__(self, factor: float) -> _Numbers:
        return _Numbers(self._build, self._build.fmul(_same(factor), self.value, flags=("contract",)))

    def zero_below(self, wanted: ir.Value) -> _Numbers:
        """Zero instead of what is below, where that is wanted; NaN stays."""
        build, floor = self._build, self._build.select(wanted, _same(0.0), _same(-math.inf))
        return _Numbers(build, build.select(build.fcmp_ordered("<", self.value, floor), floor, self.value))


def _widened(build: ir.IRBuilder, numbers: ir.Value) -> ir.Value:
    """Numbers of any kind, in float32."""
    if numbers.type == NUMBERS:
        return numbers
    return build.bitcast(build.shl(build.zext(numbers, BITS), _bits(16)), NUMBERS)


def _narrowed(build: ir.IRBuilder, numbers: ir.Value) -> ir.Value:
    """Numbers of float32 in bfloat16: the nearest, of two the even one; NaN stays."""
    bits = build.bitcast(numbers, BITS)
    odd = build.and_(build.lshr(bits, _bits(16)), _bits(1))
    nearest = build.add(bits, build.add(odd, _bits(0x7FFF)))
    kept = build.select(build.fcmp_unordered("uno", numbers, numbers), _bits(0x7FC00000), nearest)
    return build.trunc(build.lshr(kept, _bits(16)), ir.VectorType(BFLOAT, LANES))


@cache
def _same(value: float) -> ir.Constant:
    return ir.Constant(NUMBERS, [ir.Constant(FLOAT, value)] * LANES)


@cache
def _bits(value: int) -> ir.Constant:
    return ir.Constant(BITS, [ir.Constant(BITS.element, value)] * LANES)


def _bring_near(build: ir.IRBuilder, address: ir.Value) -> None:
    """Into the nearest cache, for reading; nothing happens where no memory is."""
    kind = ir.FunctionType(ir.VoidType(), [ADDRESS, *[ir.IntType(32)] * 3])
    module = build.module
    prefetch = module.globals.get("llvm.prefetch.p0") or ir.Function(module, kind, "llvm.prefetch.p0")
    build.call(prefetch, [address, *(ir.Constant(ir.IntType(32), one) for one in (0, NEAREST, 1))])


def _number(value: int) -> ir.Constant:
    return ir.Constant(WHOLE, value)


def _begun(module: ir.Module, name: str, arguments: str) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
    """A function of numbers ("n") and addresses ("a"); no two of these lead to the same array."""
    kinds = [ADDRESS if one == "a" else WHOLE for one in arguments]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    for argument in function.args:
        if argument.type == ADDRESS:
            argument.add_attribute("noalias")
    return ir.IRBuilder(function.append_basic_block()), function.args


def _begun_by_threads(
    module: ir.Module, name: str, numbers: int, addresses: int
) -> tuple[ir.IRBuilder, ir.Value, ir.Value, list[ir.Value], list[ir.Value]]:
    """A function that threads run together: its writer, the thread's number, where it stands how much is taken, and
    what was given."""
    build, (given,) = _begun(module, name, "a")

    def at(place: int) -> ir.Value:
        return build.gep(given, [_number(place)], source_etype=WHOLE)

    thread = build.atomic_rmw("add", at(0), _number(1), "monotonic")
    loaded = [build.load(at(2 + place), typ=WHOLE) for place in range(numbers)]
    found = [build.load(at(2 + numbers + place), typ=ADDRESS) for place in range(addresses)]
    return build, thread, at(1), loaded, found


@contextmanager
def _loop(build: ir.IRBuilder, first: ir.Value, last: ir.Value, step: int = 1) -> Iterator[ir.Value]:
    before, function = build.block, build.function
    head, body, behind = (function.append_basic_block() for _ in range(3))
    build.branch(head)
    build.position_at_end(head)
    at = build.phi(WHOLE)
    at.add_incoming(first, before)
    build.cbranch(build.icmp_signed("<", at, last), body, behind)
    build.position_at_end(body)
    yield at
    at.add_incoming(build.add(at, _number(step)), build.block)
    build.branch(head)
    build.position_at_end(behind)


@contextmanager
def _shared(
    build: ir.IRBuilder, taken: ir.Value, at_once: ir.Value, last: ir.Value
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Work up to `last` that no other thread has taken: where some of it begins, and how much."""
    take, work, behind = (build.function.append_basic_block() for _ in range(3))
    build.branch(take)
    build.position_at_end(take)
    first = build.atomic_rmw("add", taken, at_once, "monotonic")
    build.cbranch(build.icmp_signed("<", first, last), work, behind)
    build.position_at_end(work)
    yield first, _smaller(build, at_once, build.sub(last, first))
    build.branch(take)
    build.position_at_end(behind)


def _multiple(build: ir.IRBuilder, value: ir.Value, of: int) -> ir.Value:
    """Rounded up."""
    return build.mul(build.udiv(build.add(value, _number(of - 1)), _number(of)), _number(of))


def _smaller(build: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    return build.select(build.icmp_signed("<", one, other), one, other)


def _row_apart(build: ir.IRBuilder, channels: ir.Value, kind: ir.Type) -> ir.Value:
    """The channels of a pixel that lies outside: zeros."""
    row = build.alloca(ir.VectorType(kind, LANES), build.udiv(channels, _number(LANES)))
    with _loop(build, _number(0), channels, LANES) as channel:
        _Numbers(build, _same(0.0)).write(row, channel, kind)
    return row


def _corner(build: ir.IRBuilder, tile: ir.Value, across: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The row and the column where a tile begins."""
    return build.mul(build.udiv(tile, across), _number(4)), build.mul(build.urem(tile, across), _number(4))


def _seen(
    build: ir.IRBuilder, first: ir.Value, count: int, limit: ir.Value, enlarged: ir.Value
) -> list[tuple[ir.Value, ir.Value]]:
    """Of rows, or columns, from `first` on: where in memory, and whether they are inside."""
    places = [build.add(first, _number(i)) for i in range(count)]
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
        return _moved(build, picture, build.mul(build.add(build.mul(row, width), column), channels), kind)

    return [
        [build.select(build.and_(is_row, is_column), pixel(row, column), outside) for column, is_column in columns]
        for row, is_row in rows
    ]


def _moved(build: ir.IRBuilder, address: ir.Value, numbers: ir.Value, kind: ir.Type = FLOAT) -> ir.Value:
    """An address so many numbers farther on."""
    return build.gep(address, [numbers], source_etype=kind)

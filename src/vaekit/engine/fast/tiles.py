"""The loops of `winograd` over tiles, written for LLVM, which makes machine code for the processor they run on.

As products with matrices of 36×36 its two changes of basis take six times the
arithmetic, and copies before and after. Here a tile is taken LANES channels at a
time, from its pixels to its last number without touching memory in between.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from vaekit.engine.strips.line import LANES

FLOAT, WHOLE, ADDRESS = ir.FloatType(), ir.IntType(64), ir.PointerType()
NUMBERS = ir.VectorType(FLOAT, LANES)

Change = Callable[..., Sequence[Any]]
"""A change of basis along one side: six numbers in, six or four out, by sums, differences and factors in front."""


@dataclass(frozen=True)
class Kernels:
    """Functions of addresses and whole numbers. Python's lock is free while they run.

    into(first, last, x, height, width, channels, enlarged, above, left, across, offset, step, values): places first
    to last of values [36, places, channels], from the tiles `offset` later of rows x [height, width, channels] with
    zeros around. enlarged: 1 where each number stands for 2×2 pixels. above, left: pixels above and left of the first
    tile's first result. across: tiles in a row.

    back(first, last, products, bias, step, channels, across, offset, out, height, width, add, relu): places first to
    last of products [36, places, channels] -> the tiles `offset` later of rows out [height, width, channels]. add: 1
    where they are added to what is there. relu: 1 where negative results become 0.

    Channels are a multiple of LANES.
    """

    into: Callable[..., None]
    back: Callable[..., None]
    code: Any = field(repr=False)
    """What they are in; it must live as long as they do."""


def compiled(points: Change, neighbours: Change) -> Kernels:
    """points: six neighbours, as values at the points. neighbours: products at the points, as four neighbours."""
    module = ir.Module("tiles")
    _write_into(module, points)
    _write_back(module, neighbours)
    code = _machine_code(module)
    return Kernels(_callable(code, "into", 13), _callable(code, "back", 13), code)


def _machine_code(module: ir.Module) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    return llvm.create_mcjit_compiler(parsed, target)


def _callable(code: Any, name: str, arguments: int) -> Callable[..., None]:
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(code.get_function_address(name))


# The two functions


def _write_into(module: ir.Module, points: Change) -> None:
    build, given = _begun(module, "into", "nnannnnnnnnna")
    first, last, x, height, width, channels, enlarged, above, left, across, offset, step, values = given
    nothing = _row_apart(build, channels)
    with _loop(build, first, last) as place:
        top, side = _corner(build, build.add(place, offset), across)
        rows = _seen(build, build.add(top, build.sub(above, _number(1))), 6, height, enlarged)
        columns = _seen(build, build.add(side, build.sub(left, _number(1))), 6, width, enlarged)
        pixels = _pixels(build, x, rows, columns, width, channels, nothing)
        to = _moved(build, values, build.mul(place, channels))
        with _loop(build, _number(0), channels, LANES) as channel:
            tile = [[_Numbers.read(build, pixel, channel) for pixel in row] for row in pixels]
            half = [points(*column) for column in zip(*tile, strict=True)]
            done = [number for row in zip(*half, strict=True) for number in points(*row)]
            for n, number in enumerate(done):
                number.write(_moved(build, to, build.mul(step, _number(n))), channel)
    build.ret_void()


def _write_back(module: ir.Module, neighbours: Change) -> None:
    build, given = _begun(module, "back", "nnaannnnannnn")
    first, last, products, bias, step, channels, across, offset, out, height, width, add, relu = given
    add, relu = (build.trunc(one, ir.IntType(1)) for one in (add, relu))
    nothing, nowhere = _row_apart(build, channels), _row_apart(build, channels)
    with _loop(build, first, last) as place:
        top, side = _corner(build, build.add(place, offset), across)
        rows, columns = (_seen(build, *line, _number(0)) for line in ((top, 4, height), (side, 4, width)))
        pixels = _pixels(build, out, rows, columns, width, channels, nowhere)
        source = _moved(build, products, build.mul(place, channels))
        with _loop(build, _number(0), channels, LANES) as channel:
            at = [_moved(build, source, build.mul(step, _number(n))) for n in range(36)]
            tile = [_Numbers.read(build, one, channel) for one in at]
            half = [neighbours(*tile[column::6]) for column in range(6)]
            shift = _Numbers.read(build, bias, channel)
            for row, of_row in zip(pixels, zip(*half, strict=True), strict=True):
                for pixel, number in zip(row, neighbours(*of_row), strict=True):
                    there = _Numbers.read(build, build.select(add, pixel, nothing), channel)
                    (number + shift + there).zero_below(relu).write(pixel, channel)
    build.ret_void()


# What they are written with


class _Numbers:
    """Those of LANES channels, in the code that is being written: a sum of two writes an addition."""

    def __init__(self, build: ir.IRBuilder, value: ir.Value):
        self._build, self._value = build, value

    @classmethod
    def read(cls, build: ir.IRBuilder, row: ir.Value, channel: ir.Value) -> _Numbers:
        return cls(build, build.load(_moved(build, row, channel), align=4, typ=NUMBERS))

    def write(self, row: ir.Value, channel: ir.Value) -> None:
        self._build.store(self._value, _moved(self._build, row, channel), align=4)

    def __add__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self._build, self._build.fadd(self._value, other._value, flags=("contract",)))

    def __sub__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self._build, self._build.fsub(self._value, other._value, flags=("contract",)))

    def __rmul__(self, factor: float) -> _Numbers:
        return _Numbers(self._build, self._build.fmul(_same(factor), self._value, flags=("contract",)))

    def zero_below(self, wanted: ir.Value) -> _Numbers:
        """Zero instead of what is below, where that is wanted; NaN stays."""
        build, floor = self._build, self._build.select(wanted, _same(0.0), _same(-math.inf))
        return _Numbers(build, build.select(build.fcmp_ordered("<", self._value, floor), floor, self._value))


@cache
def _same(value: float) -> ir.Constant:
    return ir.Constant(NUMBERS, [ir.Constant(FLOAT, value)] * LANES)


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


def _row_apart(build: ir.IRBuilder, channels: ir.Value) -> ir.Value:
    """The channels of a pixel that lies outside: zeros."""
    row = build.alloca(FLOAT, channels)
    with _loop(build, _number(0), channels) as channel:
        build.store(ir.Constant(FLOAT, 0.0), _moved(build, row, channel))
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
) -> list[list[ir.Value]]:
    """The addresses of pixels [height, width, channels], by row and column."""

    def pixel(row: ir.Value, column: ir.Value) -> ir.Value:
        return _moved(build, picture, build.mul(build.add(build.mul(row, width), column), channels))

    return [
        [build.select(build.and_(is_row, is_column), pixel(row, column), outside) for column, is_column in columns]
        for row, is_row in rows
    ]


def _moved(build: ir.IRBuilder, address: ir.Value, numbers: ir.Value) -> ir.Value:
    """An address so many numbers farther on."""
    return build.gep(address, [numbers], source_etype=FLOAT)

"""A small language for loops over arrays, of which LLVM makes machine code for the processor they run on.

`Numbers` are those of LANES channels, in the code that is being written: the sum of
two writes an addition. `write_products` writes the product of matrices that the
others have at their heart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from vaekit.engine.strips.line import LANES

DEPTH, UNROLLED = 128, 4
"""Of a product of matrices: numbers of each row at a time, and of these in one turn of a loop."""
SECOND = 2
"""Of the processor's caches: where the next panel of weights waits."""
FLOAT, WHOLE, ADDRESS = ir.FloatType(), ir.IntType(64), ir.PointerType()
BFLOAT = ir.IntType(16)
"""A number of bfloat16: the upper half of one of float32."""
NUMBERS, BITS = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)


def rows_in_registers() -> int:
    """A divisor of TILES: of sums, LANES in each; AVX-512 has twice as many registers of twice the size."""
    return 12 if llvm.get_host_cpu_features().get("avx512f") else 6


def machine_code(module: ir.Module) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    return llvm.create_mcjit_compiler(parsed, target)


def write_products(module: ir.Module, block: int, *, pairs: bool = False) -> ir.Function:
    """products(x, weights, out, rows, depth, width, fresh): x [rows, depth] times weights [width / LANES, depth, LANES]
    -> out [rows, width], or added to it where fresh is 0.

    rows: a multiple of block. depth: of UNROLLED. pairs: of two numbers of bfloat16 in place of each one of float32 in
    x and weights. block × LANES sums stay in registers while they grow, and DEPTH × LANES weights in the nearest cache,
    as Goto and van de Geijn 2008 ("Anatomy of High-Performance Matrix Multiplication") do it. Sums of DEPTH numbers are
    summed again, which rounds less than one long sum.
    """
    build, given = begun(module, "products", "aaannnn")
    x, weights, out, rows, depth, width, fresh = given
    nothing = row_apart(build, whole(LANES), FLOAT)
    with loop(build, whole(0), depth, DEPTH) as done:
        steps = smaller(build, whole(DEPTH), build.sub(depth, done))
        at_first = build.icmp_signed("<", done, fresh)
        with loop(build, whole(0), width, LANES) as column:
            panel = moved(build, weights, build.add(build.mul(column, depth), build.mul(done, whole(LANES))))
            coming = moved(build, panel, build.mul(depth, whole(LANES)))
            with loop(build, whole(0), rows, block) as first:
                every = [build.add(first, whole(row)) for row in range(block)]
                sources = [moved(build, x, build.add(build.mul(row, depth), done)) for row in every]
                targets = [moved(build, out, build.add(build.mul(row, width), column)) for row in every]
                fetched = build.select(build.icmp_signed("==", first, whole(0)), coming, panel)
                for number, target in zip(_summed(build, steps, sources, panel, fetched, pairs), targets, strict=True):
                    before = Numbers.read(build, build.select(at_first, nothing, target), whole(0))
                    (before + number).write(target, whole(0))
    build.ret_void()
    return build.function


def _summed(
    build: ir.IRBuilder,
    steps: ir.Value,
    sources: list[ir.Value],
    panel: ir.Value,
    coming: ir.Value,
    pairs: bool,
) -> list[Numbers]:
    """For each source the sum of its numbers times the rows of the panel [steps, LANES]. coming: a panel that is
    brought near meanwhile, for the next sums."""
    with summing(build, whole(0), steps, UNROLLED, len(sources)) as (at, sums):
        for place in (build.add(at, whole(step)) for step in range(UNROLLED)):
            weights = Numbers.read(build, panel, build.mul(place, whole(LANES)))
            _bring_near(build, moved(build, coming, build.mul(place, whole(LANES))))
            factors = [Numbers.alike(build, source, place) for source in sources]
            if pairs:
                sums[:] = [number.plus_pairs(weights, factor) for number, factor in zip(sums, factors, strict=True)]
            else:
                sums[:] = [number + factor * weights for number, factor in zip(sums, factors, strict=True)]
    return sums


class Numbers:
    """Those of LANES channels, in the code that is being written: a sum of two writes an addition."""

    def __init__(self, build: ir.IRBuilder, value: ir.Value):
        self._build, self.value = build, value

    @classmethod
    def read(cls, build: ir.IRBuilder, row: ir.Value, channel: ir.Value, kind: ir.Type = FLOAT) -> Numbers:
        array = ir.VectorType(kind, LANES)
        return cls(build, _widened(build, build.load(moved(build, row, channel, kind), align=2, typ=array)))

    @classmethod
    def alike(cls, build: ir.IRBuilder, row: ir.Value, place: ir.Value) -> Numbers:
        """One number of a row, in all lanes."""
        return in_all_lanes(build, build.load(moved(build, row, place), align=4, typ=FLOAT))

    @classmethod
    def gathered(cls, build: ir.IRBuilder, rows: Sequence[ir.Value], place: ir.Value, kind: ir.Type) -> Numbers:
        """One number of each row, one in each lane."""
        value: ir.Value = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
        for lane, row in enumerate(rows):
            one = build.load(moved(build, row, place, kind), align=2, typ=kind)
            value = build.insert_element(value, one, ir.Constant(ir.IntType(32), lane))
        return cls(build, _widened(build, value))

    def write(self, row: ir.Value, channel: ir.Value, kind: ir.Type = FLOAT) -> None:
        build = self._build
        value = self.value if kind == FLOAT else _narrowed(build, self.value)
        build.store(value, moved(build, row, channel, kind), align=2)

    def write_first(self, to: ir.Value) -> None:
        """That of the first lane alone."""
        self._build.store(self._build.extract_element(self.value, ir.Constant(ir.IntType(32), 0)), to)

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(self._build, self._build.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: Numbers) -> Numbers:
        return Numbers(self._build, self._build.fsub(self.value, other.value, flags=("contract",)))

    def __mul__(self, other: Numbers) -> Numbers:
        return Numbers(self._build, self._build.fmul(self.value, other.value, flags=("contract",)))

    def __truediv__(self, other: Numbers) -> Numbers:
        return Numbers(self._build, self._build.fdiv(self.value, other.value))

    def __rmul__(self, factor: float) -> Numbers:
        return Numbers(self._build, self._build.fmul(same(factor), self.value, flags=("contract",)))

    def plus_pairs(self, one: Numbers, other: Numbers) -> Numbers:
        """The products of two pairs of numbers of bfloat16 in each lane, added (AVX-512 BF16)."""
        build = self._build
        kind = ir.FunctionType(NUMBERS, (NUMBERS, BITS, BITS))
        factors = (build.bitcast(pair.value, BITS) for pair in (one, other))
        return Numbers(build, _called(build, "llvm.x86.avx512bf16.dpbf16ps.512", kind, self.value, *factors))

    def paired(self, other: Numbers) -> Numbers:
        """Pairs of two numbers of bfloat16, of this one and the other."""
        build = self._build
        lower, upper = (build.bitcast(one.value, BITS) for one in (self, other))
        return Numbers(build, build.bitcast(build.or_(build.lshr(lower, _bits(16)), upper), NUMBERS))

    def larger(self, other: Numbers) -> Numbers:
        build = self._build
        return Numbers(build, build.select(build.fcmp_ordered(">", self.value, other.value), self.value, other.value))

    def largest(self) -> Numbers:
        """That of all lanes, in all lanes."""
        build, kind = self._build, ir.FunctionType(FLOAT, (NUMBERS,))
        return in_all_lanes(build, _called(build, f"llvm.vector.reduce.fmax.v{LANES}f32", kind, self.value))

    def only(self, count: ir.Value) -> Numbers:
        """So many of the lanes, and minus infinity in the others."""
        build = self._build
        lanes = ir.Constant(BITS, [ir.Constant(BITS.element, lane) for lane in range(LANES)])
        kept = build.icmp_signed("<", lanes, in_all_lanes(build, build.trunc(count, BITS.element)).value)
        return Numbers(build, build.select(kept, self.value, same(-math.inf)))

    def power_of_two(self) -> Numbers:
        """2 to each of them, as the series of what lies beyond the nearest whole number, to 5e-9 of it; at least
        2**-126, at most 2**127."""
        build, kind = self._build, ir.FunctionType(NUMBERS, (NUMBERS,))
        value = self.value
        for sign, limit in (("<", same(-126.0)), (">", same(127.0))):
            value = build.select(build.fcmp_ordered(sign, value, limit), limit, value)
        nearest = _called(build, f"llvm.rint.v{LANES}f32", kind, value)
        rest, series = Numbers(build, build.fsub(value, nearest)), Numbers(build, same(math.log(2) ** 7 / 5040))
        for n in reversed(range(7)):
            series = series * rest + Numbers(build, same(math.log(2) ** n / math.factorial(n)))
        exponent = build.shl(build.fptosi(nearest, BITS), _bits(23))
        return Numbers(build, build.bitcast(build.add(build.bitcast(series.value, BITS), exponent), NUMBERS))

    def zero_below(self, wanted: ir.Value) -> Numbers:
        """Zero instead of what is below, where that is wanted; NaN stays."""
        build, floor = self._build, self._build.select(wanted, same(0.0), same(-math.inf))
        return Numbers(build, build.select(build.fcmp_ordered("<", self.value, floor), floor, self.value))


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


def in_all_lanes(build: ir.IRBuilder, one: ir.Value) -> Numbers:
    nothing = ir.Constant(ir.VectorType(one.type, LANES), ir.Undefined)
    first = build.insert_element(nothing, one, ir.Constant(ir.IntType(32), 0))
    return Numbers(build, build.shuffle_vector(first, nothing, ir.Constant(BITS, None)))


def _called(build: ir.IRBuilder, name: str, kind: ir.FunctionType, *arguments: ir.Value) -> ir.Value:
    """What one of LLVM's own functions gives."""
    return build.call(build.module.globals.get(name) or ir.Function(build.module, kind, name), arguments)


@cache
def same(value: float) -> ir.Constant:
    return ir.Constant(NUMBERS, [ir.Constant(FLOAT, value)] * LANES)


@cache
def _bits(value: int) -> ir.Constant:
    return ir.Constant(BITS, [ir.Constant(BITS.element, value)] * LANES)


def _bring_near(build: ir.IRBuilder, address: ir.Value) -> None:
    """Into a cache, for reading; nothing happens where no memory is."""
    kind = ir.FunctionType(ir.VoidType(), [ADDRESS, *[ir.IntType(32)] * 3])
    how = (ir.Constant(ir.IntType(32), one) for one in (0, SECOND, 1))
    _called(build, "llvm.prefetch.p0", kind, address, *how)


def whole(value: int) -> ir.Constant:
    return ir.Constant(WHOLE, value)


def begun(module: ir.Module, name: str, arguments: str) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
    """A function of numbers ("n") and addresses ("a"); no two of these lead to the same array."""
    kinds = [ADDRESS if one == "a" else WHOLE for one in arguments]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    for argument in function.args:
        if argument.type == ADDRESS:
            argument.add_attribute("noalias")
    return ir.IRBuilder(function.append_basic_block()), function.args


def begun_by_threads(
    module: ir.Module, name: str, numbers: int, addresses: int
) -> tuple[ir.IRBuilder, ir.Value, ir.Value, list[ir.Value], list[ir.Value]]:
    """A function that threads run together: its writer, the thread's number, where it stands how much is taken, and
    what was given."""
    build, (given,) = begun(module, name, "a")

    def at(place: int) -> ir.Value:
        return build.gep(given, [whole(place)], source_etype=WHOLE)

    thread = build.atomic_rmw("add", at(0), whole(1), "monotonic")
    loaded = [build.load(at(2 + place), typ=WHOLE) for place in range(numbers)]
    found = [build.load(at(2 + numbers + place), typ=ADDRESS) for place in range(addresses)]
    return build, thread, at(1), loaded, found


@contextmanager
def loop(build: ir.IRBuilder, first: ir.Value, last: ir.Value, step: ir.Value | int = 1) -> Iterator[ir.Value]:
    before, function = build.block, build.function
    head, body, behind = (function.append_basic_block() for _ in range(3))
    build.branch(head)
    build.position_at_end(head)
    at = build.phi(WHOLE)
    at.add_incoming(first, before)
    build.cbranch(build.icmp_signed("<", at, last), body, behind)
    build.position_at_end(body)
    yield at
    at.add_incoming(build.add(at, whole(step) if isinstance(step, int) else step), build.block)
    build.branch(head)
    build.position_at_end(behind)


@contextmanager
def summing(
    build: ir.IRBuilder, first: ir.Value, last: ir.Value, step: int, count: int
) -> Iterator[tuple[ir.Value, list[Numbers]]]:
    """A loop with so many sums, 0 before it, which its body replaces by those that follow; behind it they are there."""
    before = build.block
    with loop(build, first, last, step) as at:
        body = build.block
        build.position_after(at)
        kept = [build.phi(NUMBERS) for _ in range(count)]
        build.position_at_end(body)
        sums = [Numbers(build, one) for one in kept]
        yield at, sums
        for phi, number in zip(kept, sums, strict=True):
            phi.add_incoming(same(0.0), before)
            phi.add_incoming(number.value, build.block)
    sums[:] = [Numbers(build, one) for one in kept]


@contextmanager
def shared(
    build: ir.IRBuilder, taken: ir.Value, at_once: ir.Value, last: ir.Value
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Work up to `last` that no other thread has taken: where some of it begins, and how much."""
    take, work, behind = (build.function.append_basic_block() for _ in range(3))
    build.branch(take)
    build.position_at_end(take)
    first = build.atomic_rmw("add", taken, at_once, "monotonic")
    build.cbranch(build.icmp_signed("<", first, last), work, behind)
    build.position_at_end(work)
    yield first, smaller(build, at_once, build.sub(last, first))
    build.branch(take)
    build.position_at_end(behind)


def multiple(build: ir.IRBuilder, value: ir.Value, of: int) -> ir.Value:
    """Rounded up."""
    return build.mul(build.udiv(build.add(value, whole(of - 1)), whole(of)), whole(of))


def smaller(build: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    return build.select(build.icmp_signed("<", one, other), one, other)


def row_apart(build: ir.IRBuilder, channels: ir.Value, kind: ir.Type) -> ir.Value:
    """The channels of a pixel that lies outside: zeros."""
    row = build.alloca(ir.VectorType(kind, LANES), build.udiv(channels, whole(LANES)))
    with loop(build, whole(0), channels, LANES) as channel:
        Numbers(build, same(0.0)).write(row, channel, kind)
    return row


def moved(build: ir.IRBuilder, address: ir.Value, numbers: ir.Value, kind: ir.Type = FLOAT) -> ir.Value:
    """An address so many numbers farther on."""
    return build.gep(address, [numbers], source_etype=kind)

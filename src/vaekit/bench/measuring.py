"""One run of the benchmark, from the peers to the files."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.bench.int8 import ranges
from vaekit.bench.peers import INT8, Peer, half, half_precision, installed, runs
from vaekit.bench.plot import plot
from vaekit.bench.subject import Subject, subject
from vaekit.bench.timing import OUT_OF_MEMORY, Measured, alternate, matrix_rate, peak_bytes, warm
from vaekit.engine.half import ONE_PIECE_MARGIN, Half, Ration
from vaekit.engine.placement import place
from vaekit.engine.strips.budget import Budget, free_bytes
from vaekit.engine.strips.telling import amount
from vaekit.errors import OptionError
from vaekit.files import atomic_write, check_target

EXACT = "diffusers float32"
"""The peer that the others have to agree with, and on a CPU the way that people use diffusers."""
AGREES = 40.0
"""Decibels of the reference's range; bfloat16 of random weights stays well above, and int8 of a real VAE."""
ROUGHLY = 30.0
"""The same for int8 of random weights, which nothing calibrates: the full-size encoder keeps 32.5, all else 45."""
SIDES = {"cpu": (512,), "cuda": (512, 1024, 2048)}
BATCHES = {"cpu": (1,), "cuda": (1, 4, 16)}
"""What is measured where nothing is asked for."""
HOPELESS = 5
"""A dtype so many times slower than float32 is left to software by the processor."""
GROWTH_SIDES = (256, 512, 1024, 2048)
GROWTH_BATCHES = (1, 2, 4, 8, 16)
"""Of pictures of the smallest side."""


@dataclass(frozen=True)
class Settings:
    """What to measure. vae: as for `vaekit.load`, or None for random weights of this kind.

    sides, batches: each with each; empty for what is usual on the device.
    """

    vae: str | None = None
    kind: str = "kl"
    directions: tuple[str, ...] = ("decode", "encode")
    device: str = "auto"
    sides: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    rounds: int = 5
    growth: bool = False
    memory: bool = True
    quick: bool = False


@dataclass(frozen=True)
class Row:
    """One peer in one direction at one size. times_base: so many times as fast as diffusers as people use it there.

    decibels: of agreement. peak_bytes: of a process of its own, on a GPU beside what was there before.
    """

    direction: str
    side: int
    batch: int
    name: str
    median: float
    spread: float
    first: float
    times_base: float | None
    decibels: float
    of_matrix_rate: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Failure:
    """A peer that ran out of memory, or was not tried because it would have."""

    direction: str
    side: int
    batch: int
    name: str

    def __str__(self) -> str:
        return f"{what(self.direction, self.side, self.batch)}: {self.name}"


@dataclass(frozen=True)
class Growth:
    """vaekit's cost of one size."""

    direction: str
    side: int
    batch: int
    seconds: float
    per_megapixel: float
    peak_bytes_per_megapixel: float | None


@dataclass
class Result:
    settings: Settings
    subject: str
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    out_of_memory: list[Failure] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def disagreeing(self) -> list[str]:
        of_random = ROUGHLY if self.settings.vae is None else AGREES
        off = (row for row in self.rows if not row.decibels >= (of_random if row.name == INT8 else AGREES))
        return [f"{row.name} ({what(row.direction, row.side, row.batch)})" for row in off]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"disagreeing": self.disagreeing}


def run(settings: Settings, told: Callable[[str], None] = lambda _: None) -> Result:
    """Measure. told: called with what happens next. Raises OptionError, and what loading a VAE raises."""
    device = place(settings.device).device
    settings = _settled(settings, device)
    told(f"the matrix products of {device}")
    rates = {dtype: matrix_rate(dtype, device) for dtype in (torch.float32, half_precision(device))}
    result = Result(settings, "", _machine(device, rates))
    for direction in settings.directions:
        chosen = subject(settings.vae, settings.kind, direction)
        result.subject = chosen.name
        chosen, why_not = _with_ranges(chosen, device, told, quick=settings.quick)
        peers, missing = _peers(chosen, device, rates, quick=settings.quick)
        result.missing = why_not + missing
        for side in settings.sides:
            for batch in settings.batches:
                _measure(result, chosen, peers, _Size(device, side, batch, max(rates.values())), told)
        if settings.growth:
            _grow(result, chosen, told)
    return result


def _settled(settings: Settings, device: torch.device) -> Settings:
    """With the sizes that are usual on the device. Raises OptionError for what cannot be measured."""
    if device.type not in SIDES:
        raise OptionError(f"the benchmark runs on cpu and cuda, not on {device}")
    if settings.growth and device.type != "cpu":
        raise OptionError("growth is of the CPU; on a GPU every --side is measured with every --batch")
    if any(side % 64 or not 64 <= side <= 4096 for side in settings.sides):
        raise OptionError("a side is a multiple of 64, from 64 to 4096")
    if settings.rounds < 1 or any(batch < 1 for batch in settings.batches):
        raise OptionError("batch and rounds are positive numbers")
    sides, batches = settings.sides or SIDES[device.type], settings.batches or BATCHES[device.type]
    return replace(settings, device=str(device), sides=sides, batches=batches)


def _with_ranges(
    chosen: Subject, device: torch.device, told: Callable[[str], None], *, quick: bool
) -> tuple[Subject, list[str]]:
    """What int8 needs; and why it is not measured."""
    if quick and chosen.source is not None:
        return chosen, [f"{INT8}: calibrating takes minutes where the network is large"]
    told(f"{chosen.direction}: how far values reach, for int8")
    try:
        return replace(chosen, ranges=ranges(chosen, device)), []
    except OptionError as error:
        return chosen, [f"{INT8}: {error}"]


def _peers(
    chosen: Subject, device: torch.device, rates: dict[torch.dtype, float], *, quick: bool
) -> tuple[list[Peer], list[str]]:
    peers, missing = installed(chosen, device, quick=quick)
    if rates[half_precision(device)] * HOPELESS < rates[torch.float32]:
        missing += [f"{peer.name}: this processor has no arithmetic in bfloat16" for peer in peers if peer.half]
        peers = [peer for peer in peers if not peer.half]
    return peers, missing


@dataclass(frozen=True)
class _Size:
    """rate: operations per second of the device's product of matrices."""

    device: torch.device
    side: int
    batch: int
    rate: float

    @property
    def base(self) -> str:
        """Diffusers as people use it there."""
        half = str(half_precision(self.device)).removeprefix("torch.")
        return EXACT if self.device.type == "cpu" else f"diffusers {half}"


def _measure(result: Result, chosen: Subject, peers: list[Peer], size: _Size, told: Callable[[str], None]) -> None:
    this = what(chosen.direction, size.side, size.batch)
    x = chosen.example(size.side, size.batch).to(size.device)
    makes = {peer.name: partial(peer.make, chosen) for peer in peers}
    if any(name.endswith("compiled") for name in makes):
        torch.compiler.reset()  # what was compiled for other sizes counts against a limit
    found, out = alternate(makes, x, result.settings.rounds, lambda text: told(f"{this}: {text}"))
    result.out_of_memory += [Failure(chosen.direction, size.side, size.batch, name) for name in out]
    reference = found.get(EXACT) or found.get(size.base) or next(iter(found.values()), None)
    for name, one in found.items():
        assert reference is not None
        peak = one.peak
        if size.device.type == "cpu" and result.settings.memory:
            told(f"{this}: memory of {name}")
            peak = peak_bytes(chosen, name, size.side, size.batch)
        base, decibels = found.get(size.base), agreement(one.output, reference.output)
        result.rows.append(_row(chosen, size, name, one, base, decibels, peak))


def _row(
    chosen: Subject,
    size: _Size,
    name: str,
    one: Measured,
    base: Measured | None,
    decibels: float,
    peak: int | None,
) -> Row:
    times = one.times
    faster = None if base is None else base.times.median / times.median
    share = chosen.operations(size.side, size.batch) / times.median / size.rate
    return Row(
        chosen.direction,
        size.side,
        size.batch,
        name,
        times.median,
        times.spread,
        times.first,
        faster,
        decibels,
        share,
        peak,
    )


def _grow(result: Result, chosen: Subject, told: Callable[[str], None]) -> None:
    """vaekit in one piece, size after size; what does not fit into free memory is told and left out."""
    one = half(chosen, torch.device("cpu"))
    sizes = [(side, 1) for side in GROWTH_SIDES] + [(GROWTH_SIDES[0], batch) for batch in GROWTH_BATCHES[1:]]
    for side, batch in sizes:
        this, x = f"growth: {what(chosen.direction, side, batch)}", chosen.example(side, batch)
        needed, free = ONE_PIECE_MARGIN * _bytes(one, x), free_bytes(x.device)
        told(f"{this}, about {amount(needed)} of {amount(free)} that are free")
        try:
            if needed > free:
                raise MemoryError
            seconds, megapixels = warm(runs(one), x), batch * side * side / 1e6
        except OUT_OF_MEMORY:
            result.out_of_memory.append(Failure(chosen.direction, side, batch, "vaekit"))
            continue
        peak = peak_bytes(chosen, "vaekit", side, batch) if result.settings.memory else None
        per = None if peak is None else peak / megapixels
        result.growth.append(Growth(chosen.direction, side, batch, seconds, seconds / megapixels, per))


def _bytes(one: Half, x: Tensor) -> int:
    """What a run of x in one piece takes."""
    batch, _, height, width = x.shape
    return one.forecast((batch, height, width), Ration(Budget(1 << 62, asked=False))).memory


def what(direction: str, side: int, batch: int) -> str:
    """What is done, for people: "decode 4 of 1024×1024"."""
    return f"{direction} {batch} of {side}×{side}"


def agreement(one: Tensor, reference: Tensor) -> float:
    """In decibels of the reference's range; infinite for the same values."""
    one, reference = one.float(), reference.float()
    reach = reference.max() - reference.min()
    return float(20 * torch.log10(reach / (one - reference).square().mean().sqrt()))


def _machine(device: torch.device, rates: dict[torch.dtype, float]) -> dict[str, Any]:
    known: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        known["GPU"] = torch.cuda.get_device_name(device)
        known["GPU memory, MiB"] = torch.cuda.get_device_properties(device).total_memory >> 20
        known["CUDA"], known["cuDNN"] = torch.version.cuda, torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    for name in ("torch", "triton", "diffusers", "openvino", "onnxruntime"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    products = {f"matrix product {str(d).removeprefix('torch.')}, FLOP/s": rate for d, rate in rates.items()}
    return known | products


def write(result: Result, folder: Path, *, force: bool) -> list[Path]:
    """bench.json, bench.md and bench.svg. Raises OutputError where they exist and force is not given."""
    texts = {
        "bench.json": json.dumps(result.to_dict(), indent=2),
        "bench.md": table(result),
        "bench.svg": plot(result.rows, result.growth),
    }
    paths = [folder / name for name in texts]
    for path in paths:
        check_target(path, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, texts.values(), strict=True):
        with atomic_write(path, force=force) as temporary:
            temporary.write_text(text, "utf-8")
    return paths


COLUMNS = ("", "seconds", "spread", "first", "times diffusers", "agreement dB", "of matrix rate", "peak MiB")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}"
    base = "–" if row.times_base is None else f"{row.times_base:.2f}"
    return (
        f"{what(row.direction, row.side, row.batch)}: {row.name}",
        f"{row.median:.3f}" if row.median >= 0.1 else f"{row.median:.5f}",
        f"{row.spread:.0%}",
        f"{row.first:.2f}",
        base,
        "∞" if row.decibels == float("inf") else f"{row.decibels:.1f}",
        f"{row.of_matrix_rate:.0%}",
        peak,
    )


GROWTH_COLUMNS = ("vaekit, growth", "seconds", "per megapixel", "peak MiB per megapixel")


def growth_cells(one: Growth) -> tuple[str, ...]:
    """A row of growth's table."""
    peak = "–" if one.peak_bytes_per_megapixel is None else f"{one.peak_bytes_per_megapixel / 2**20:.0f}"
    this = what(one.direction, one.side, one.batch)
    return this, f"{one.seconds:.3f}", f"{one.per_megapixel:.3f}", peak


def table(result: Result) -> str:
    """The result in Markdown."""
    lines = [f"{result.subject} on {result.settings.device}", "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + " --- |" * len(COLUMNS))
    lines += ["| " + " | ".join(cells(row)) + " |" for row in result.rows]
    if result.growth:
        lines += ["", "| " + " | ".join(GROWTH_COLUMNS) + " |", "|" + " --- |" * len(GROWTH_COLUMNS)]
        lines += ["| " + " | ".join(growth_cells(one)) + " |" for one in result.growth]
    lines += ["", *(f"- {name}: {value}" for name, value in result.machine.items())]
    lines += [f"- out of memory: {one}" for one in result.out_of_memory]
    lines += [f"- not measured: {name}" for name in result.missing]
    return "\n".join(lines) + "\n"

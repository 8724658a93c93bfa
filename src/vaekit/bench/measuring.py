"""One run of the benchmark, from the peers to the files."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.bench.peers import installed
from vaekit.bench.plot import plot
from vaekit.bench.subject import Subject, subject
from vaekit.bench.timing import Times, alternate, matrix_rate, peak_bytes, timed
from vaekit.errors import OptionError
from vaekit.files import atomic_write, check_target

BASE = "diffusers float32"
AGREES = 40.0
"""Decibels of the reference's range; bfloat16 of random weights stays well above."""
HOPELESS = 5
"""A dtype so many times slower than float32 is left to software by the processor."""
GROWTH_SIDES = (256, 512, 1024, 2048)
GROWTH_BATCHES = (1, 4, 16)


@dataclass(frozen=True)
class Settings:
    """What to measure. vae: as for `vaekit.load`, or None for random weights of this kind."""

    vae: str | None = None
    kind: str = "kl"
    directions: tuple[str, ...] = ("decode", "encode")
    side: int = 512
    batch: int = 1
    rounds: int = 5
    growth: bool = False
    memory: bool = True
    quick: bool = False


@dataclass(frozen=True)
class Row:
    """One peer in one direction. times_base: so many times as fast as diffusers' default. decibels: of agreement."""

    direction: str
    name: str
    median: float
    spread: float
    first: float
    times_base: float | None
    decibels: float
    of_matrix_rate: float
    peak_bytes: int | None


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
    growth: list[Growth] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def disagreeing(self) -> list[str]:
        return [f"{row.name} ({row.direction})" for row in self.rows if not row.decibels >= AGREES]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"disagreeing": self.disagreeing}


def run(settings: Settings, told: Callable[[str], None] = lambda _: None) -> Result:
    """Measure. told: called with what happens next. Raises OptionError, and what loading a VAE raises."""
    if settings.side % 64 or not 64 <= settings.side <= 4096:
        raise OptionError("the side is a multiple of 64, from 64 to 4096")
    if settings.batch < 1 or settings.rounds < 1:
        raise OptionError("batch and rounds are positive numbers")
    result = Result(settings, "", {})
    told("this machine's matrix products")
    rates = {str(dtype): matrix_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    result.machine = _machine() | {
        f"matrix product {name.removeprefix('torch.')}, FLOP/s": r for name, r in rates.items()
    }
    for direction in settings.directions:
        chosen = subject(settings.vae, settings.kind, direction)
        result.subject = chosen.name
        _measure(result, chosen, rates, told)
        if settings.growth:
            _grow(result, chosen, told)
    return result


def _measure(result: Result, chosen: Subject, rates: dict[str, float], told: Callable[[str], None]) -> None:
    settings = result.settings
    peers, result.missing = installed(chosen, quick=settings.quick)
    if rates[str(torch.bfloat16)] * HOPELESS < rates[str(torch.float32)]:
        result.missing += [f"{peer.name}: this processor has no arithmetic in bfloat16" for peer in peers if peer.half]
        peers = [peer for peer in peers if not peer.half]
    x, runs = chosen.example(settings.side, settings.batch), {}
    for peer in peers:
        told(f"{chosen.direction}: getting {peer.name} ready")
        runs[peer.name] = peer.make(chosen)
    times, outputs = alternate(runs, x, settings.rounds, lambda text: told(f"{chosen.direction}: {text}"))
    reference = outputs.get(BASE, next(iter(outputs.values())))
    del runs
    for name, one in times.items():
        peak = None
        if settings.memory:
            told(f"{chosen.direction}: memory of {name}")
            peak = peak_bytes(chosen, name, settings.side, settings.batch)
        result.rows.append(
            _row(chosen, name, one, times, _decibels(outputs[name], reference), max(rates.values()), peak, settings)
        )


def _row(
    chosen: Subject,
    name: str,
    one: Times,
    times: dict[str, Times],
    decibels: float,
    rate: float,
    peak: int | None,
    settings: Settings,
) -> Row:
    base = times[BASE].median / one.median if BASE in times else None
    share = chosen.operations(settings.side, settings.batch) / one.median / rate
    return Row(chosen.direction, name, one.median, one.spread, one.first, base, decibels, share, peak)


def _grow(result: Result, chosen: Subject, told: Callable[[str], None]) -> None:
    settings = result.settings
    vaekit = installed(chosen, quick=True)[0][0]
    one = vaekit.make(chosen)
    sizes = [(side, 1) for side in GROWTH_SIDES] + [(256, batch) for batch in GROWTH_BATCHES if batch > 1]
    for side, batch in sizes[:2] if settings.quick else sizes:
        told(f"{chosen.direction}: {batch} of {side}×{side}")
        seconds, megapixels = timed(one, chosen.example(side, batch)), batch * side * side / 1e6
        peak = peak_bytes(chosen, vaekit.name, side, batch) if settings.memory else None
        per = None if peak is None else peak / megapixels
        result.growth.append(Growth(chosen.direction, side, batch, seconds, seconds / megapixels, per))


def _decibels(one: Tensor, reference: Tensor) -> float:
    """Of the reference's range; infinite for the same values."""
    reach = reference.max() - reference.min()
    return float(20 * torch.log10(reach / (one - reference).square().mean().sqrt()))


def _machine() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    known: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    for name in ("torch", "diffusers", "openvino", "onnxruntime"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def write(result: Result, folder: Path, *, force: bool) -> list[Path]:
    """bench.json, bench.md and bench.svg. Raises OutputError where they exist and force is not given."""
    texts = {
        "bench.json": json.dumps(result.to_dict(), indent=2),
        "bench.md": table(result),
        "bench.svg": plot(result.rows),
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
        f"{row.direction}: {row.name}",
        f"{row.median:.3f}",
        f"{row.spread:.0%}",
        f"{row.first:.2f}",
        base,
        "∞" if row.decibels == float("inf") else f"{row.decibels:.1f}",
        f"{row.of_matrix_rate:.0%}",
        peak,
    )


def table(result: Result) -> str:
    """The result in Markdown."""
    side, batch = result.settings.side, result.settings.batch
    lines = [f"{result.subject}, {batch} of {side}×{side}", "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + " --- |" * len(COLUMNS))
    lines += ["| " + " | ".join(cells(row)) + " |" for row in result.rows]
    if result.growth:
        lines += ["", "| vaekit | seconds | per megapixel | peak MiB per megapixel |", "| --- | --- | --- | --- |"]
        for one in result.growth:
            peak = "–" if one.peak_bytes_per_megapixel is None else f"{one.peak_bytes_per_megapixel / 2**20:.0f}"
            what = f"{one.direction} {one.batch} of {one.side}×{one.side}"
            lines.append(f"| {what} | {one.seconds:.2f} | {one.per_megapixel:.2f} | {peak} |")
    lines += ["", *(f"- {name}: {value}" for name, value in result.machine.items())]
    lines += [f"- not measured: {name}" for name in result.missing]
    return "\n".join(lines) + "\n"

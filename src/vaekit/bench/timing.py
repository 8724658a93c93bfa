"""Seconds and bytes: alternating runs, medians and spread, and each peak of memory in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from vaekit.bench.peers import Peer, Runs, installed
from vaekit.bench.subject import Subject, subject
from vaekit.errors import ResourceError

SMALLEST, LONG = 256, 0.5
"""Side of the first product of matrices, and seconds after which no larger one is tried: not every processor has
arithmetic in bfloat16."""
LARGEST = {"cpu": 4096, "cuda": 8192}
"""Side of the last one."""
WARM_UPS = {"cpu": 1, "cuda": 3}
"""Runs before the clock is looked at: on a GPU the second is captured, and the third replays that."""
PATIENCE = 20.0
"""Seconds; beside a run that takes longer, what is made ready on first use is nothing."""
OUT_OF_MEMORY = (torch.OutOfMemoryError, ResourceError, MemoryError)


@dataclass(frozen=True)
class Times:
    """first: with what is made ready on first use. seconds: of each run after it."""

    first: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass(frozen=True)
class Measured:
    """One peer at one size. output: of the first and the last picture, on the CPU. peak: bytes of a GPU's memory."""

    times: Times
    output: Tensor
    peak: int | None


@dataclass
class _Running:
    """A peer that is ready."""

    run: Runs
    first: float
    output: Tensor
    peak: int | None
    seconds: list[float] = field(default_factory=list)


def alternate(
    makes: Mapping[str, Callable[[], Runs]], x: Tensor, rounds: int, told: Callable[[str], None]
) -> tuple[dict[str, Measured], list[str]]:
    """Every peer made ready and warm, then each in turn, `rounds` times; and who ran out of memory."""
    ready: dict[str, _Running] = {}
    out: list[str] = []
    for name, make in makes.items():
        told(f"getting {name} ready")
        try:
            ready[name] = _made_ready(make, x)
        except OUT_OF_MEMORY:
            out.append(name)
        _give_back(x.device)
    for number in range(rounds):
        for name, one in list(ready.items()):
            told(f"round {number + 1} of {rounds}: {name}")
            try:
                one.seconds.append(timed(one.run, x))
            except OUT_OF_MEMORY:
                out.append(name)
                del ready[name]
    return {
        name: Measured(Times(one.first, tuple(one.seconds)), one.output, one.peak) for name, one in ready.items()
    }, out


def _made_ready(make: Callable[[], Runs], x: Tensor) -> _Running:
    """Its peak is that of all it did until it was warm: of replays of a CUDA graph nothing tells one."""
    on_gpu = x.device.type == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.synchronize(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
    run = make()
    with torch.inference_mode():
        started = time.perf_counter()
        given = run(x)
        output = given[:: max(1, len(given) - 1)].cpu()
        first = time.perf_counter() - started
        del given
        for _ in range(WARM_UPS[x.device.type] - 1):
            run(x)
    peak = torch.cuda.max_memory_allocated(x.device) - before if on_gpu else None
    return _Running(run, first, output, peak)


def _give_back(device: torch.device) -> None:
    """What nobody holds any more goes back to the GPU, for the next one's sake."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def timed(run: Runs, x: Tensor) -> float:
    """Seconds of a run; on a GPU by its own clock, from an idle GPU to the run's end."""
    if x.device.type == "cuda":
        return _timed_on_gpu(run, x)
    started = time.perf_counter()
    with torch.inference_mode():
        run(x)
    return time.perf_counter() - started


def warm(run: Runs, x: Tensor) -> float:
    """Seconds of a run after the first, the middle one of three; of the first where nobody would wait for more."""
    first = timed(run, x)
    return first if first > PATIENCE else statistics.median(timed(run, x) for _ in range(3))


def _timed_on_gpu(run: Runs, x: Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(x.device)
    with torch.inference_mode():
        start.record()
        run(x)
        end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def matrix_rate(dtype: torch.dtype, device: torch.device, side: int | None = None) -> float:
    """Operations per second of a device's product of two side × side matrices, smaller where that takes long."""
    side = side or LARGEST[device.type]
    size = min(side, SMALLEST)
    while True:
        a = torch.randn(size, size, device=device).to(dtype)
        seconds = min(timed(lambda x: x @ x, a) for _ in range(4))
        if size >= side or seconds > LONG:
            return 2.0 * size**3 / seconds
        size *= 2


def peak_bytes(chosen: Subject, name: str, side: int, batch: int) -> int | None:
    """The most memory of a process that loads the weights from a file, makes this peer ready and runs it twice.

    None where nothing tells it.
    """
    if chosen.source is not None:
        return _peak_of_process(chosen.source, chosen.direction, chosen.ranges, name, side, batch)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vae.safetensors"
        chosen.save(path)
        return _peak_of_process(str(path), chosen.direction, chosen.ranges, name, side, batch)


def _peak_of_process(*what: Any) -> int | None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(theirs, *what))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _peak(pipe, path, direction, ranges, name, side, batch) -> None:  # type: ignore[no-untyped-def]
    chosen = replace(subject(path, "", direction), ranges=ranges)
    peer: Peer = next(peer for peer in installed(chosen, torch.device("cpu"), quick=False)[0] if peer.name == name)
    run, x = peer.make(chosen), chosen.example(side, batch)
    del chosen  # nobody but the peer is to keep the weights
    for _ in range(2):
        timed(run, x)
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        pipe.send(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        pipe.send(None)

"""Seconds and bytes: alternating runs, medians and spread, and each peak of memory in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from vaekit.bench.peers import Peer, Runs, installed
from vaekit.bench.subject import Subject, subject

SMALLEST, LONG = 256, 0.5
"""Side of the first product of matrices, and seconds after which no larger one is tried: not every processor has
arithmetic in bfloat16."""


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


def alternate(
    runs: dict[str, Runs], x: Tensor, rounds: int, told: Callable[[str], None]
) -> tuple[dict[str, Times], dict[str, Tensor]]:
    """Every peer once to warm up, then each in turn, `rounds` times; and what each gave."""
    firsts: dict[str, float] = {}
    outputs: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name, one in runs.items():
        told(f"{name}: first run")
        started = time.perf_counter()
        with torch.inference_mode():
            outputs[name] = one(x)
        firsts[name] = time.perf_counter() - started
    for number in range(rounds):
        for name, one in runs.items():
            told(f"round {number + 1} of {rounds}: {name}")
            seconds[name].append(timed(one, x))
    return {name: Times(firsts[name], tuple(seconds[name])) for name in runs}, outputs


def timed(run: Runs, x: Tensor) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        run(x)
    return time.perf_counter() - started


def matrix_rate(dtype: torch.dtype, side: int = 4096) -> float:
    """Operations per second of this machine's product of two side × side matrices, smaller where that takes long."""
    size = min(side, SMALLEST)
    while True:
        a = torch.randn(size, size).to(dtype)
        seconds = min(timed(lambda x: x @ x, a) for _ in range(4))
        if size >= side or seconds > LONG:
            return 2.0 * size**3 / seconds
        size *= 2


def peak_bytes(chosen: Subject, name: str, side: int, batch: int) -> int | None:
    """The most memory of a process that loads the weights from a file, makes this peer ready and runs it twice.

    None where nothing tells it.
    """
    if chosen.source is not None:
        return _peak_of_process(chosen.source, chosen.direction, name, side, batch)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vae.safetensors"
        chosen.save(path)
        return _peak_of_process(str(path), chosen.direction, name, side, batch)


def _peak_of_process(*what: str | int) -> int | None:
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


def _peak(pipe, path, direction, name, side, batch) -> None:  # type: ignore[no-untyped-def]
    chosen = subject(path, "", direction)
    peer: Peer = next(peer for peer in installed(chosen, quick=False)[0] if peer.name == name)
    run, x = peer.make(chosen), chosen.example(side, batch)
    del chosen  # nobody but the peer is to keep the weights
    for _ in range(2):
        timed(run, x)
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        pipe.send(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        pipe.send(None)

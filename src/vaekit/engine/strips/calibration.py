"""What this machine does in a second, measured in about two of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from vaekit.engine.strips.line import Line
from vaekit.engine.strips.planning import Rates
from vaekit.engine.strips.stores import spill_folder

SECONDS = 0.25
"""For each measurement."""
WRITTEN = 1 << 26


def calibrate(line: Line, dtype: torch.dtype, device: torch.device) -> Rates:
    """Rates for networks of these widths, in this dtype, there."""
    widths = sorted({step.channels for step in line.steps if step.kind == "conv" and step.channels >= 16})
    with torch.inference_mode():
        slow = sum(_weight(line, width) / _convolving(width, dtype, device) for width in widths)
        return Rates(
            operations=sum(_weight(line, width) for width in widths) / slow if widths else Rates.operations,
            moved=_moving(dtype, device),
            spilled=_spilling(),
        )


def _weight(line: Line, width: int) -> float:
    """The arithmetic of a line that is done at a width."""
    return sum(line.operations(i, 64, 64) for i, step in enumerate(line.steps) if step.channels == width)


def _convolving(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a 3×3 convolution on a strip."""
    side = max(16, int((2 << 20) / width) // 128)
    x = torch.randn(1, width, side, 128, device=device).to(dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(width, width, 3, 3, device=device).to(dtype).to(memory_format=torch.channels_last)
    return 2.0 * 9 * width * width * side * 128 / _time(lambda: F.conv2d(x, weight, padding=1), device)


def _moving(dtype: torch.dtype, device: torch.device) -> float:
    """Bytes a second of an activation, read and written."""
    x = torch.randn(1 << 22, device=device).to(dtype)
    y = torch.empty_like(x)
    return 2.0 * x.numel() * dtype.itemsize / _time(lambda: y.copy_(F.silu(x)), device)


def _spilling() -> float:
    """Bytes a second to and from a temporary file."""
    data = bytearray(WRITTEN)
    with tempfile.TemporaryFile(dir=spill_folder(), buffering=0) as file:
        start = time.perf_counter()
        os.pwrite(file.fileno(), data, 0)
        os.preadv(file.fileno(), [data], 0)
        return 2.0 * WRITTEN / (time.perf_counter() - start)


def _time(work: Callable[[], object], device: torch.device) -> float:
    work()
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(times) < 3 or (time.perf_counter() < until and len(times) < 50):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times)

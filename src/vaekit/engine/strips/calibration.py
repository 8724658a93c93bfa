"""What this machine does in a second, measured in about two of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.engine.fast import attention, winograd
from vaekit.engine.strips import attention as plain_attention
from vaekit.engine.strips.line import Line, suits_winograd
from vaekit.engine.strips.statistics import as_picture
from vaekit.engine.strips.stores import Scratch, spill_folder
from vaekit.engine.strips.task import KEYS_AT_ONCE, Rates

SECONDS = 0.25
"""For each measurement."""
WRITTEN = 1 << 26
CELLS = 2048
"""That look at as many."""


def calibrate(line: Line, dtype: torch.dtype, device: torch.device) -> Rates:
    """Rates for networks of these widths, in this dtype, there."""
    widths = {step.channels for step in line.steps if step.kind == "conv"}
    wide, lanes = {width for width in widths if width >= 16}, set(filter(suits_winograd, widths))
    attending = {step.channels for step in line.steps if step.kind == "attend"}
    with torch.inference_mode():
        at_points = {width: _at_points(width, dtype) for width in lanes} if winograd.available(device, dtype) else {}
        return Rates(
            operations=_mean(line, {width: _convolving(width, dtype, device) for width in wide}) or Rates.operations,
            at_points=_mean(line, at_points) or Rates.at_points,
            attended=_mean(line, {width: _attending(width, dtype, device) for width in attending}) or Rates.attended,
            moved=_moving(dtype, device),
            spilled=_spilling(),
        )


def _mean(line: Line, rates: dict[int, float]) -> float:
    """Of operations a second at several widths, by the arithmetic of the line that is done at each; 0 of none."""
    work = {
        width: sum(line.operations(i, 64, 64) for i, s in enumerate(line.steps) if s.channels == width)
        for width in rates
    }
    return sum(work.values()) / sum(work[width] / rate for width, rate in rates.items()) if rates else 0.0


def _strip(width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows to be convolved, [n, 128, width], and the convolution's weight."""
    rows = torch.randn(max(16, (2 << 20) // width // 128), 128, width, device=device).to(dtype)
    weight = torch.randn(width, width, 3, 3, device=device).to(dtype)
    return rows, weight.contiguous(memory_format=torch.channels_last)


def _convolving(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a 3×3 convolution on a strip."""
    rows, weight = _strip(width, dtype, device)
    return 2.0 * 9 * rows.numel() * width / _time(lambda: F.conv2d(as_picture(rows), weight, padding=1), device)


def _at_points(width: int, dtype: torch.dtype) -> float:
    """The same by Winograd's, of which only the products of matrices count."""
    rows, weight = _strip(width, dtype, torch.device("cpu"))
    out, weights, scratch = torch.empty_like(rows), winograd.weights_at_points(weight), Scratch(dtype, rows.device)
    work = partial(winograd.convolve, rows, weights, None, out, scratch.take)
    return 2.0 * 36 / 16 * rows.numel() * width / _time(work, rows.device)


def _attending(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of cells that look at others."""
    queries, keys, values = (torch.randn(CELLS, width, device=device).to(dtype) for _ in range(3))
    attend = (attention if attention.available(device, dtype, width) else plain_attention).attend
    blocks = list(zip(*(torch.split(one, KEYS_AT_ONCE) for one in (keys, values)), strict=True))
    return 4.0 * CELLS**2 * width / _time(lambda: attend(queries, blocks), device)


def _moving(dtype: torch.dtype, device: torch.device) -> float:
    """Bytes a second of an activation, read and written."""
    x = torch.randn(1 << 22, device=device).to(dtype)
    y = torch.empty_like(x)
    return 2.0 * x.numel() * dtype.itemsize / _time(lambda: y.copy_(F.silu(x)), device)


def _spilling() -> float:
    """Bytes a second to and from a temporary file, of blocks that were written before."""
    data = bytearray(WRITTEN)
    with tempfile.TemporaryFile(dir=spill_folder(), buffering=0) as file:
        os.pwrite(file.fileno(), data, 0)
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

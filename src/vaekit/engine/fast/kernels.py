"""GroupNorm's two passes as Triton kernels; the norm of `norms`, in as few passes over memory as there can be.

A program reads whole rows of channels, so that memory is read as it lies. Sums
are never differences of large numbers: each tile has its own mean, and tiles,
parts and channels are merged by their means and squares (Chan, Golub & LeVeque
1983). Import this where Triton is installed only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from vaekit.engine.fast.norms import Activation, Gathered, Settled

TILE = 4096
"""Numbers that a program holds at a time."""
WIDEST = 128
"""Channels that a program looks at."""
PARTS = 512
"""A picture is cut into about so many parts: enough programs for a large GPU, few enough to merge."""
MERGED = 1024
"""Numbers that are merged at a time."""
OPTIONS = {"enable_fp_fusion": True}
"""Of the compiler; unsaid, Triton 3.9 warns that this will not always be what it does."""


@triton.jit
def _gather(
    x,
    other,
    bias,
    means,
    squares,
    cells,
    channels,
    part,
    ADDS: tl.constexpr,
    BIASED: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Program (part, block of channels, picture)."""
    number, parts, picture = tl.program_id(0), tl.num_programs(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    first = number * part
    count = tl.minimum(part, cells - first)
    start = (picture.to(tl.int64) * cells + first) * channels
    x += start
    other += start
    added = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32) if BIASED else tl.zeros((1,), tl.float32)
    seen = 0.0
    mean = tl.zeros((CHANNELS,), tl.float32)
    square = tl.zeros((CHANNELS,), tl.float32)
    for tile in range(0, count, CELLS):
        cell = tile + tl.arange(0, CELLS)
        mask = (cell < count)[:, None] & inside[None, :]
        place = cell[:, None] * channels + channel[None, :]
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        if ADDS:
            value += tl.load(other + place, mask=mask, other=0.0).to(tl.float32)
        if BIASED:
            value += added[None, :]
        if ADDS or BIASED:
            written = value.to(x.dtype.element_ty)
            tl.store(x + place, written, mask=mask)
            value = tl.where(mask, written.to(tl.float32), 0.0)
        here = tl.minimum(count - tile, CELLS).to(tl.float32)
        mean_here = tl.sum(value, 0) / here
        apart = tl.where(mask, value - mean_here[None, :], 0.0)
        total = seen + here
        moved = mean_here - mean
        mean += moved * (here / total)
        square += tl.sum(apart * apart, 0) + moved * moved * (seen * here / total)
        seen = total
    out = (picture * parts + number) * channels + channel
    tl.store(means + out, mean, mask=inside)
    tl.store(squares + out, square, mask=inside)


@triton.jit
def _settle(
    means,
    squares,
    bias,
    weight,
    offset,
    out,
    cells,
    numbers,
    channels,
    part,
    parts,
    epsilon,
    BIASED: tl.constexpr,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Program (group, picture). WIDTH: channels in a group. numbers: in a group, as a float. out: [3, B, C]."""
    picture = tl.program_id(1)
    lane = tl.arange(0, LANES)
    inside = lane < WIDTH
    channel = tl.program_id(0) * WIDTH + lane
    left = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32) if BIASED else tl.zeros((LANES,), tl.float32)
    base = picture * parts * channels
    near = tl.sum(tl.load(means + base + channel, mask=inside, other=0.0) + left, 0) / WIDTH
    away = 0.0
    for first in range(0, parts, AT_ONCE):
        number = first + tl.arange(0, AT_ONCE)
        mask = (number < parts)[:, None] & inside[None, :]
        count = tl.minimum(part, cells - number * part).to(tl.float32)
        mean = tl.load(means + base + number[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        apart = tl.where(mask, count[:, None] * (mean + left[None, :] - near), 0.0)
        away += tl.sum(tl.sum(apart, 1), 0)
    middle = near + away / numbers
    total = 0.0
    for first in range(0, parts, AT_ONCE):
        number = first + tl.arange(0, AT_ONCE)
        mask = (number < parts)[:, None] & inside[None, :]
        count = tl.minimum(part, cells - number * part).to(tl.float32)
        place = base + number[:, None] * channels + channel[None, :]
        apart = tl.load(means + place, mask=mask, other=0.0) + left[None, :] - middle
        square = tl.load(squares + place, mask=mask, other=0.0)
        total += tl.sum(tl.sum(tl.where(mask, square + count[:, None] * apart * apart, 0.0), 1), 0)
    inverse = 1.0 / tl.sqrt(total / numbers + epsilon)
    scale = inverse * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(offset + channel, mask=inside, other=0.0).to(tl.float32)
    pictures = tl.num_programs(1)
    tl.store(out + picture * channels + channel, middle - left, mask=inside)
    tl.store(out + (pictures + picture) * channels + channel, scale, mask=inside)
    tl.store(out + (2 * pictures + picture) * channels + channel, shift, mask=inside)


@triton.jit
def _apply(
    x,
    out,
    mean,
    scale,
    shift,
    cells,
    channels,
    ACTIVATION: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Program (tile of cells, block of channels, picture)."""
    picture = tl.program_id(2)
    first = tl.program_id(0) * CELLS
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    cell = tl.arange(0, CELLS)
    mask = (first + cell < cells)[:, None] & inside[None, :]
    start = (picture.to(tl.int64) * cells + first) * channels
    place = cell[:, None] * channels + channel[None, :]
    known = picture * channels + channel
    value = tl.load(x + start + place, mask=mask, other=0.0).to(tl.float32)
    value -= tl.load(mean + known, mask=inside, other=0.0)[None, :]
    value *= tl.load(scale + known, mask=inside, other=0.0)[None, :]
    value += tl.load(shift + known, mask=inside, other=0.0)[None, :]
    if ACTIVATION == "silu":
        value = value * tl.sigmoid(value)
    elif ACTIVATION == "relu":
        value = tl.maximum(value, 0.0)
    tl.store(out + start + place, value.to(out.dtype.element_ty), mask=mask)


class TritonNorms:
    """The passes of `norms.Norms`; arrays lie on the GPU, or anywhere under Triton's interpreter."""

    def gather(self, x: Tensor, other: Tensor | None = None, bias: Tensor | None = None) -> Gathered:
        batch, channels, cells = _measured(x)
        if other is not None:
            _measured(other)
        wide, tile = _tile(channels)
        part = triton.cdiv(triton.cdiv(cells, PARTS), tile) * tile
        parts = triton.cdiv(cells, part)
        means, squares = torch.empty((2, batch, parts, channels), device=x.device).unbind()
        grid = (parts, triton.cdiv(channels, wide), batch)
        given = (x, x if other is None else other, x if bias is None else bias, means, squares, cells, channels, part)
        _gather[grid](*given, ADDS=other is not None, BIASED=bias is not None, CELLS=tile, CHANNELS=wide, **OPTIONS)
        return Gathered(means, squares, cells, part)

    def settle(self, gathered: Gathered, norm: nn.GroupNorm, bias: Tensor | None = None) -> Settled:
        batch, parts, channels = gathered.means.shape
        width = channels // norm.num_groups
        lanes = triton.next_power_of_2(width)
        out = gathered.means.new_empty((3, batch, channels))
        _settle[(norm.num_groups, batch)](
            gathered.means,
            gathered.squares,
            norm.bias if bias is None else bias,
            norm.weight,
            norm.bias,
            out,
            gathered.cells,
            float(gathered.cells * width),
            channels,
            gathered.part,
            parts,
            norm.eps,
            BIASED=bias is not None,
            WIDTH=width,
            AT_ONCE=max(1, MERGED // lanes),
            LANES=lanes,
            **OPTIONS,
        )
        return Settled(*out.unbind())

    def apply(self, x: Tensor, settled: Settled, activation: Activation | None, *, over: bool) -> Tensor:
        batch, channels, cells = _measured(x)
        out = x if over else torch.empty_like(x)
        wide, tile = _tile(channels)
        grid = (triton.cdiv(cells, tile), triton.cdiv(channels, wide), batch)
        _apply[grid](x, out, *settled, cells, channels, ACTIVATION=activation, CELLS=tile, CHANNELS=wide, **OPTIONS)
        return out


def _measured(x: Tensor) -> tuple[int, int, int]:
    """(batch, channels, cells); the kernels count on channels lying innermost."""
    batch, channels, height, width = x.shape
    assert x.permute(0, 2, 3, 1).is_contiguous()
    return batch, channels, height * width


def _tile(channels: int) -> tuple[int, int]:
    """(channels, cells) of a tile."""
    wide = min(WIDEST, triton.next_power_of_2(channels))
    return wide, TILE // wide

"""A line of steps carried out over whole pictures, with the modules of the plain network.

Against the plain network: channels last, enlargement folded into its
convolution, residuals added by the convolution itself and in place, activations
in place, and each result let go with its last use; Winograd's convolution where
it is quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.engine.fast import attention, normalised, winograd
from vaekit.engine.fast.folding import cells_beyond, enlarge, fold
from vaekit.engine.fast.fused import add_convolved, convolve, point, point_into
from vaekit.engine.strips.line import ACTIVATED, Line, Step
from vaekit.engine.strips.statistics import Affine, Statistics
from vaekit.engine.strips.stores import Scratch, Spare
from vaekit.engine.strips.task import KEYS_AT_ONCE

R = TypeVar("R")


def carried_out(
    line: Line,
    results: dict[int, R],
    compute: Callable[[Step, int, Mapping[int, R], frozenset[int]], R],
    let_go: Callable[[R, Collection[R]], None] = lambda gone, left: None,
) -> R:
    """The line's result. results: holds the input's, and of the others those that a later step reads.

    compute(step, place, results, over): over are the steps whose results nothing
    reads after this one, so that they may be written over. let_go(gone, left): a
    result that was read for the last time, and those that are left.
    """
    last_use = line.last_use()
    for place, step in enumerate(line.steps[1:], 1):
        over = frozenset(i for i in results if last_use[i] == place)
        results[place] = compute(step, place, results, over)
        for i in over:
            let_go(results.pop(i), results.values())
    return results[len(line) - 1]


class _Room:
    """Of one run: its input's height and width, where its Winograd convolutions work, and arrays that are done with,
    those of their weights by themselves, since fresh memory costs the system as much time as a copy."""

    def __init__(self, x: Tensor):
        self.size = x.shape[2], x.shape[3]
        self.points = Scratch(x.dtype, x.device)
        self.spare, self.weights = (Spare(x.dtype, x.device) for _ in range(2))

    def give(self, gone: Tensor, left: Collection[Tensor]) -> None:
        """Keep an array for another result, unless one that is left lies in it."""
        lies = {one.untyped_storage().data_ptr() for one in left}
        if gone.is_contiguous(memory_format=torch.channels_last) and gone.untyped_storage().data_ptr() not in lies:
            self.spare.give(gone.permute(0, 2, 3, 1))


class Whole:
    """A network's one direction, ready to run on batches of any size.

    network: the plain one; its weights are shared, and only the folded ones are new.
    """

    def __init__(self, network: nn.Module, line: Line, *, at_points: bool = False):
        """at_points: by Winograd's convolution where that is quicker."""
        self.line = line
        self._module = network.get_submodule
        self._at_points = at_points
        self._folded: dict[str, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], the line's input -> its result, [B, C', H', W']; x may be written over."""
        results = {0: x.contiguous(memory_format=torch.channels_last)}
        room = _Room(x)
        del x
        return carried_out(self.line, results, partial(self._step, room), room.give)

    def _step(self, room: _Room, step: Step, place: int, results: Mapping[int, Tensor], over: frozenset[int]) -> Tensor:
        x = results[step.source]
        if step.kind == "keys":
            return x  # what it stands for is done with the queries
        if step.kind == "attend":
            room.spare.clear()
            return self._attend(step, x, self._at_points and self.line.winograd_pays(*room.size))
        if self._at_points and self.line.at_points(place, *room.size):
            return _signed(step, self._convolve_at_points(room, step, x, results, over))
        room.spare.clear()
        prepared = self._activated(step, x)
        if step.kind == "up":
            if step.name not in self._folded:
                self._folded[step.name] = fold(self._conv(step.name).weight)
            return enlarge(prepared, self._folded[step.name], self._conv(step.name).bias, self.line.padding)
        return _signed(step, self._convolve(step, prepared, results, over))

    def _convolve_at_points(
        self, room: _Room, step: Step, x: Tensor, results: Mapping[int, Tensor], over: frozenset[int]
    ) -> Tensor:
        """By Winograd's convolution, of rows that are normalised and activated only when it is their turn."""
        conv = self._conv(step.name)
        added = step.residual is not None
        if added and step.shortcut is None:
            residual = results[step.residual or 0]
            ordered = residual.contiguous(memory_format=torch.channels_last)
            out = ordered.clone() if ordered is residual and step.residual not in over else ordered
        else:
            height, width = (side * (2 if step.kind == "up" else 1) for side in x.shape[2:])
            made = room.spare.take(x.shape[0], height, width, conv.out_channels)
            if step.shortcut is not None:
                point_into(results[step.residual or 0].permute(0, 2, 3, 1), self._conv(step.shortcut), made)
            out = made.permute(0, 3, 1, 2)
        weights = winograd.weights_at_points(conv.weight, room.weights.take)
        for picture, result in zip(x, out.permute(0, 2, 3, 1), strict=True):
            for rows, margin, first, last in self._rows(step, picture):
                winograd.convolve(
                    rows,
                    weights,
                    conv.bias,
                    result[first:last],
                    room.points.take,
                    margin=margin,
                    enlarged=step.kind == "up",
                    add=added,
                    relu=step.after == "relu",
                )
        room.weights.give(weights.view(out.dtype))
        return out

    def _rows(self, step: Step, x: Tensor) -> Iterator[tuple[Tensor, tuple[int, int], int, int]]:
        """What a 3×3 convolution of picture x [C, h, w] sees, in parts.

        Of each: rows [n, w, C], how many rows and columns of them lie above and left of
        the first result, and the results' first row and the one behind their last.
        """
        height, width, channels = x.shape[1], x.shape[2], x.shape[0]
        if self.line.padding != "zeros":
            activated = self._activated(step, x.unsqueeze(0))
            around = (
                beyond(activated, step, self.line)[0]
                if step.kind == "conv"
                else cells_beyond(activated, self.line.padding)
            )
            margin = 2 if step.kind == "up" else 1
            yield around[0].permute(1, 2, 0).contiguous(), (margin, margin), 0, height * margin
            return
        rows = x.permute(1, 2, 0)
        if step.norm is None and step.before is None:
            yield rows, (0, 0), 0, height * (2 if step.kind == "up" else 1)
            return
        affine = None if step.norm is None else _affine(self._norm(step.norm), rows, normalised.add)
        at_once = max(4, ACTIVATED // (width * channels) // 4 * 4)
        slab = x.new_empty(min(at_once, height) + 2, width, channels)
        for first in range(0, height, at_once):
            last = min(first + at_once, height)
            above, below = max(0, first - 1), min(height, last + 1)
            part = slab[: below - above]
            normalised.activate(rows[above:below], affine, step.before, part)
            yield part, (first - above, 0), first, last

    def _convolve(self, step: Step, x: Tensor, results: Mapping[int, Tensor], over: frozenset[int]) -> Tensor:
        conv, relu = self._conv(step.name), step.after == "relu"
        x, pad = beyond(x, step, self.line)
        if step.residual is None:
            return convolve(x, conv.weight, conv.bias, stride=2 if step.kind == "down" else 1, pad=pad, relu=relu)
        residual = results[step.residual]
        if step.shortcut is not None:
            short = self._conv(step.shortcut)
            out = convolve(x, conv.weight, conv.bias, pad=pad)
            return add_convolved(out, residual, short.weight, short.bias, relu=relu)
        into = residual if step.residual in over else residual.clone()
        return add_convolved(into, x, conv.weight, conv.bias, pad=pad, relu=relu)

    def _activated(self, step: Step, x: Tensor) -> Tensor:
        if step.norm is not None:
            x = self._normed(step.norm, x)
            if step.before == "silu":
                return F.silu(x, inplace=True)
            return F.relu(x, inplace=True) if step.before == "relu" else x
        return prepared_without_norm(step, x)

    def _normed(self, name: str, x: Tensor) -> Tensor:
        norm = self._norm(name)
        if x.dtype != torch.float32:
            return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        out = torch.empty_like(x)
        for picture, result in zip(x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1), strict=True):
            _affine(norm, picture).apply(picture, result)
        return out

    def _attend(self, step: Step, x: Tensor, loops: bool) -> Tensor:
        """Over all cells; the 1×1 convolutions are products of matrices there. loops: those of our own are worth it."""
        assert step.norm is not None
        batch, channels, height, width = x.shape
        cells = self._normed(step.norm, x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        q, k, v = (point(cells, self._conv(f"{step.name}.{part}")) for part in "qkv")
        del cells
        if loops and attention.available(x.device, x.dtype, channels):
            gathered = torch.empty_like(q)
            for made, queries, keys, values in zip(gathered, q, k, v, strict=True):
                made.copy_(attention.attend(queries, _blocks(keys, values)))
        else:
            q, k, v = (one.unsqueeze(1) for one in (q, k, v))
            gathered = F.scaled_dot_product_attention(q, k, v)
        gathered = point(gathered, self._conv(f"{step.name}.proj_out"))
        return x + gathered.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _conv(self, name: str) -> nn.Conv2d:
        module = self._module(name)
        assert isinstance(module, nn.Conv2d)
        return module

    def _norm(self, name: str) -> nn.GroupNorm:
        module = self._module(name)
        assert isinstance(module, nn.GroupNorm)
        return module


def _blocks(keys: Tensor, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(keys, KEYS_AT_ONCE), torch.split(values, KEYS_AT_ONCE), strict=True)


def _affine(norm: nn.GroupNorm, rows: Tensor, add: Callable[[Statistics, Tensor], None] = Statistics.add) -> Affine:
    """The norm of rows [h, w, C] in float32. With channels last PyTorch's own takes the variance as a difference of two
    sums, which costs three of its digits where the mean is a few deviations from zero."""
    statistics = Statistics(rows.shape[2], rows.device)
    add(statistics, rows)
    return statistics.affine(norm, rows.device)


def _signed(step: Step, x: Tensor) -> Tensor:
    """What a tiny network gives in [0, 1], in [-1, 1]."""
    return x.mul_(2).sub_(1) if step.after == "signed" else x


def prepared_without_norm(step: Step, x: Tensor) -> Tensor:
    """What a tiny network's first convolution sees; x where there is nothing to do."""
    if step.before == "clamp":
        return torch.tanh(x / 3) * 3
    return x * 0.5 + 0.5 if step.before == "unit" else x


def beyond(x: Tensor, step: Step, line: Line) -> tuple[Tensor, tuple[int, int]]:
    """What a convolution sees beyond the edges: x with it, or as zeros that are left to the convolution."""
    if step.kind == "point":
        return x, (0, 0)
    if step.kind == "down":
        if step.pad:
            return x, (1, 1)
        return F.pad(x, (0, 1, 0, 1), mode="circular" if line.padding == "circular" else "constant"), (0, 0)
    if line.padding == "zeros":
        return x, (1, 1)
    if line.padding == "circular":
        return F.pad(x, (1, 1, 1, 1), mode="circular"), (0, 0)
    for side, pad in ((-2, (0, 0, 1, 1)), (-1, (1, 1, 0, 0))):
        x = F.pad(x, pad, mode="reflect" if x.shape[side] > 1 else "replicate")
    return x, (0, 0)

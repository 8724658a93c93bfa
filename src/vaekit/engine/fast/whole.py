"""A line of steps carried out over whole pictures, with the modules of the plain network.

Against the plain network: channels last, enlargement folded into its
convolution, residuals added by the convolution itself and in place, activations
in place, and each result let go with its last use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.engine.fast.folding import enlarge, fold
from vaekit.engine.fast.fused import add_convolved, convolve, point
from vaekit.engine.strips.line import Line, Step
from vaekit.engine.strips.statistics import Statistics

R = TypeVar("R")


def carried_out(
    line: Line, results: dict[int, R], compute: Callable[[Step, int, Mapping[int, R], frozenset[int]], R]
) -> R:
    """The line's result. results: holds the input's, and of the others those that a later step reads.

    compute(step, place, results, over): over are the steps whose results nothing
    reads after this one, so that they may be written over.
    """
    last_use = line.last_use()
    for place, step in enumerate(line.steps[1:], 1):
        over = frozenset(i for i in results if last_use[i] == place)
        results[place] = compute(step, place, results, over)
        for i in over:
            del results[i]
    return results[len(line) - 1]


class Whole:
    """A network's one direction, ready to run on batches of any size.

    network: the plain one; its weights are shared, and only the folded ones are new.
    """

    def __init__(self, network: nn.Module, line: Line):
        self.line = line
        self._module = network.get_submodule
        self._folded = {s.name: fold(self._conv(s.name).weight) for s in line.steps if s.kind == "up"}

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], the line's input -> its result, [B, C', H', W']; x may be written over."""
        results = {0: x.contiguous(memory_format=torch.channels_last)}
        del x
        return carried_out(self.line, results, self._step)

    def _step(self, step: Step, place: int, results: Mapping[int, Tensor], over: frozenset[int]) -> Tensor:
        x = results[step.source]
        if step.kind == "keys":
            return x  # what it stands for is done with the queries
        if step.kind == "attend":
            return self._attend(step, x)
        prepared = self._activated(step, x)
        if step.kind == "up":
            conv = self._conv(step.name)
            return enlarge(prepared, self._folded[step.name], conv.bias, self.line.padding)
        out = self._convolve(step, prepared, results, over)
        return out.mul_(2).sub_(1) if step.after == "signed" else out

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
        norm = self._module(name)
        assert isinstance(norm, nn.GroupNorm)
        if x.dtype != torch.float32:
            return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        out = torch.empty_like(x)
        for picture, result in zip(x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1), strict=True):
            _exactly_normed(picture, norm, result)
        return out

    def _attend(self, step: Step, x: Tensor) -> Tensor:
        """Over all cells, [B, cells, channels]; the 1×1 convolutions are products of matrices there."""
        assert step.norm is not None
        batch, channels, height, width = x.shape
        cells = self._normed(step.norm, x).permute(0, 2, 3, 1).reshape(batch, 1, height * width, channels)
        q, k, v = (point(cells, self._conv(f"{step.name}.{part}")) for part in "qkv")
        gathered = point(F.scaled_dot_product_attention(q, k, v), self._conv(f"{step.name}.proj_out"))
        return x + gathered.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _conv(self, name: str) -> nn.Conv2d:
        module = self._module(name)
        assert isinstance(module, nn.Conv2d)
        return module


def _exactly_normed(rows: Tensor, norm: nn.GroupNorm, out: Tensor) -> None:
    """rows, out: [h, w, C] in float32. With channels last PyTorch's own norm takes the variance as a difference of two
    sums, which costs three of its digits where the mean is a few deviations from zero."""
    statistics = Statistics(rows.shape[2], rows.device)
    statistics.add(rows)
    statistics.affine(norm, rows.device).apply(rows, out)


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

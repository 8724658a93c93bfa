"""A line of steps carried out over whole pictures on a GPU, with the modules of the plain network.

As `whole`, but norms are the two passes of `norms`, and what adds a residual
gathers the statistics of the sum on the way. cuDNN's convolutions add no bias
themselves: one that only norms would see is left to them, others go with the
statistics. Nothing here waits for the GPU, so that CUDA graphs can hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.engine.fast.folding import enlarge, fold
from vaekit.engine.fast.fused import add_convolved, convolve, point
from vaekit.engine.fast.norms import Gathered, Norms
from vaekit.engine.fast.whole import beyond, carried_out, prepared_without_norm
from vaekit.engine.strips.line import Line, Step


class Result(NamedTuple):
    """A step's result: [B, C, H, W], channels last, and its statistics where a norm needs them."""

    pixels: Tensor
    gathered: Gathered | None = None


class WholeOnGPU:
    """A network's one direction, ready to run on batches of any size; as `whole.Whole`."""

    def __init__(self, network: nn.Module, line: Line, norms: Norms):
        self.line = line
        self._module = network.get_submodule
        self._norms = norms
        self._folded = {s.name: _channels_last(fold(self._conv(s.name).weight)) for s in line.steps if s.kind == "up"}
        self._left = {place: bias for place in _seen_by_norms_only(line) if (bias := self._bias(place)) is not None}

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], the line's input -> its result, [B, C', H', W']; x may be written over."""
        results = {0: Result(x.contiguous(memory_format=torch.channels_last))}
        del x
        return carried_out(self.line, results, self._step).pixels

    def _step(self, step: Step, place: int, results: Mapping[int, Result], over: frozenset[int]) -> Result:
        if step.kind == "keys":
            return results[step.source]  # what it stands for is done with the queries
        if step.kind == "attend":
            return self._attend(step, results[step.source], over)
        prepared = self._prepared(step, results[step.source], over)
        if step.residual is not None:
            return self._added(step, prepared, results, over)
        if step.normed and step.after is None:
            return self._gathered(step, place, prepared)
        if step.kind == "up":
            return Result(enlarge(prepared, self._folded[step.name], self._conv(step.name).bias, self.line.padding))
        conv = self._conv(step.name)
        x, pad = beyond(prepared, step, self.line)
        out = convolve(x, conv.weight, conv.bias, stride=_stride(step), pad=pad, relu=step.after == "relu")
        return Result(out.mul_(2).sub_(1) if step.after == "signed" else out)

    def _prepared(self, step: Step, source: Result, over: frozenset[int]) -> Tensor:
        """The source, normalised and activated."""
        if step.norm is None:
            return prepared_without_norm(step, source.pixels)
        return self._normed(step, source, over=step.source in over and step.residual != step.source)

    def _normed(self, step: Step, source: Result, *, over: bool) -> Tensor:
        assert step.norm is not None and source.gathered is not None and step.before in ("silu", "relu", None)
        norm = self._module(step.norm)
        assert isinstance(norm, nn.GroupNorm)
        settled = self._norms.settle(source.gathered, norm, self._left.get(step.source))
        return self._norms.apply(source.pixels, settled, step.before, over=over)

    def _gathered(self, step: Step, place: int, prepared: Tensor) -> Result:
        """A convolution whose result is normalised later; its bias goes with the statistics, or is left to the norm."""
        conv = self._conv(step.name)
        if step.kind == "up":
            out = _channels_last(enlarge(prepared, self._folded[step.name], None, self.line.padding))
        else:
            x, pad = beyond(prepared, step, self.line)
            out = _channels_last(F.conv2d(x, conv.weight, None, stride=_stride(step), padding=pad))
        return Result(out, self._norms.gather(out, bias=None if place in self._left else conv.bias))

    def _added(self, step: Step, prepared: Tensor, results: Mapping[int, Result], over: frozenset[int]) -> Result:
        """A convolution and its residual; the statistics of the sum are gathered as it is written."""
        assert step.residual is not None
        conv, residual = self._conv(step.name), results[step.residual].pixels
        x, pad = beyond(prepared, step, self.line)
        del prepared
        into = residual if step.residual in over else residual.clone()
        bias = conv.bias
        if step.shortcut is not None:
            short = self._conv(step.shortcut)
            into = _channels_last(F.conv2d(residual, short.weight))
            bias = _sum(bias, short.bias)
        if step.after == "relu":
            return Result(add_convolved(into, x, conv.weight, bias, pad=pad, relu=True))
        out = _channels_last(F.conv2d(x, conv.weight, None, padding=pad))
        return Result(into, self._norms.gather(into, out, bias))

    def _attend(self, step: Step, source: Result, over: frozenset[int]) -> Result:
        """Over all cells, [B, 1, cells, channels]; the 1×1 convolutions are products of matrices there.

        A head as wide as the network (512) is more than FlashAttention's and cuDNN's kernels take (256): on a GPU
        PyTorch picks its memory-efficient one, which makes no matrix of all cells with all cells either.
        """
        x = source.pixels if step.source in over else source.pixels.clone()
        batch, channels, height, width = x.shape
        cells = self._normed(step, source, over=False).permute(0, 2, 3, 1).reshape(batch, 1, height * width, channels)
        q, k, v = (point(cells, self._conv(f"{step.name}.{part}")) for part in "qkv")
        del cells
        projection = self._conv(f"{step.name}.proj_out")
        out = F.linear(F.scaled_dot_product_attention(q, k, v), projection.weight.flatten(1))
        out = out.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return Result(x, self._norms.gather(x, out, projection.bias))

    def _conv(self, name: str) -> nn.Conv2d:
        module = self._module(name)
        assert isinstance(module, nn.Conv2d)
        return module

    def _bias(self, place: int) -> Tensor | None:
        return self._conv(self.line.steps[place].name).bias


def _seen_by_norms_only(line: Line) -> list[int]:
    """The convolutions whose results are read through norms alone, without an activation of their own."""
    found = []
    for place, step in enumerate(line.steps):
        readers = [other for other in line.steps[1:] if place in other.reads]
        raw = [other for other in readers if other.norm is None or other.residual == place]
        plain = step.kind in ("conv", "point", "down", "up") and step.residual is None and step.after is None
        if plain and readers and not raw:
            found.append(place)
    return found


def _stride(step: Step) -> int:
    return 2 if step.kind == "down" else 1


def _channels_last(x: Tensor) -> Tensor:
    """As it is, where the convolution kept the order; pictures of one channel or cell tell none."""
    return x.contiguous(memory_format=torch.channels_last)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other

"""A line of steps as an OpenVINO graph: an optional way to run on a CPU (`pip install vaekit[openvino]`).

The graph is written step by step, with the same folding as in `whole`; nothing
is traced, and its sizes stay open. OpenVINO chooses the layouts and fuses. The
full-size decoder is written and compiled in less than a second, also in int8, so
that keeping compiled graphs on the disk, 100 MB each, would not pay.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.engine.fast.folding import fold
from vaekit.engine.strips.line import Line, Step

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
Node = Any
"""openvino.Node, which is there only where OpenVINO is."""
Run = Callable[[Tensor], Tensor]
"""[B, C, H, W] -> [B, C', H', W'] in float32."""
Ranges = Mapping[str, tuple[float, float]]
"""By a convolution's name, from where to where its input goes when it is computed in int8; 0 lies inside."""
SMALLEST = 1e-20
"""A step of int8 where all values are 0."""
NO_BIAS = 1e-12
"""In the place of none: a convolution in int8 with neither a bias nor a norm after it comes out wrong where a sum
follows (OpenVINO 2026.4), and a bias of 0 is taken away before."""


def available() -> bool:
    """Whether OpenVINO is installed; it is not imported for that."""
    return importlib.util.find_spec("openvino") is not None


def library() -> Any:
    """OpenVINO, kept from telling its makers by the network of each import and each graph that is converted."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compiled(
    line: Line, network: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype, ranges: Ranges | None = None
) -> Run:
    """The line with these weights, ready to run; zeros beyond the edges.

    network: the plain one, asked for its norms only; it may lie on the meta
    device. ranges: the convolutions to be computed in int8; all else is in dtype.
    """
    writer = _Writer(line, network, state, ranges)
    result, given = writer.write()
    ready = _compiled([result], given, dtype)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(ready(x.float().contiguous().numpy())[0].copy())

    return run


def observed(
    line: Line, network: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> tuple[list[Tensor], dict[str, tuple[float, float]]]:
    """What the line gives for each input in float32, and how far the inputs of its 3×3 convolutions reach, 0 included.

    The first convolution and the last are left out: they take little time and lose most in int8.
    """
    writer = _Writer(line, network, state)
    result, given = writer.write()
    names = [step.name for step in line.steps if step.kind in ("conv", "up", "down")][1:-1]
    ends = [writer.reach(writer.seen[name]) for name in names]
    ready = _compiled([result, *(end for pair in ends for end in pair)], given, torch.float32)
    results, ranges = [], dict.fromkeys(names, (0.0, 0.0))
    for x in inputs:
        found = ready(x.float().contiguous().numpy())
        results.append(torch.from_numpy(found[0].copy()))
        for i, (name, (low, high)) in enumerate(ranges.items()):
            ranges[name] = min(low, float(found[1 + 2 * i])), max(high, float(found[2 + 2 * i]))
    return results, ranges


def _compiled(results: list[Node], given: Node, dtype: torch.dtype) -> Any:
    model = library().Model(results, [given], "vae")
    return _core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": HINTS[dtype]})


@cache
def _core() -> Any:
    return library().Core()


class _Writer:
    """Writes a line's steps one after the other as nodes of a graph. seen: each convolution's input."""

    def __init__(self, line: Line, network: nn.Module, state: Mapping[str, Tensor], ranges: Ranges | None = None):
        self._ops: Any = library().opset15
        self._line, self._state, self._module = line, state, network.get_submodule
        self._ranges = ranges or {}
        self.seen: dict[str, Node] = {}

    def write(self) -> tuple[Node, Node]:
        """The result's node, and the input's."""
        given = self._ops.parameter([-1, self._line.steps[0].channels, -1, -1], np.float32)
        nodes = [given]
        for step in self._line.steps[1:]:
            nodes.append(self._step(step, nodes))
        return nodes[-1], given

    def _step(self, step: Step, nodes: list[Node]) -> Node:
        x = nodes[step.source]
        if step.kind == "keys":
            return x  # what it stands for is written with the queries
        prepared = x if step.norm is None else self._normed(step.norm, x)
        if step.kind == "attend":
            return self._ops.add(x, self._attended(step, prepared))
        prepared = self._activated(step.before, prepared)
        if step.kind == "up":
            return self._enlarged(step, prepared)
        out = self._convolved(step, prepared)
        if step.residual is not None:
            residual = nodes[step.residual]
            out = self._ops.add(out, residual if step.shortcut is None else self._convolution(step.shortcut, residual))
        return self._activated(step.after, out)

    def _convolved(self, step: Step, x: Node) -> Node:
        if step.kind == "point":
            return self._convolution(step.name, x)
        if step.kind == "down":
            return self._convolution(step.name, x, stride=2, before=step.pad, after=1)
        return self._convolution(step.name, x, before=1, after=1)

    def _convolution(self, name: str, x: Node, *, stride: int = 1, before: int = 0, after: int = 0) -> Node:
        weight = self._weight(name, self._state[f"{name}.weight"], out=0)
        x = self._rounded(name, x)
        return self._biased(name, self._ops.convolution(x, weight, [stride] * 2, [before] * 2, [after] * 2, [1, 1]))

    def _enlarged(self, step: Step, x: Node) -> Node:
        weight = self._weight(step.name, fold(self._state[f"{step.name}.weight"].float()), out=1)
        x = self._rounded(step.name, x, centred=True)  # OpenVINO has no transposed one in int8 otherwise
        enlarged = self._ops.convolution_backprop_data(x, weight, strides=[2, 2], pads_begin=[1, 1], pads_end=[1, 1])
        return self._biased(step.name, enlarged)

    def _rounded(self, name: str, x: Node, *, centred: bool = False) -> Node:
        """x in 256 steps where the convolution is to be in int8; 0, which lies beyond the edges, is one of them."""
        self.seen[name] = x
        if name not in self._ranges:
            return x
        low, high = self._ranges[name]
        step = max(-low, high) / 127 if centred else (high - low) / 255
        step = max(step, SMALLEST)
        below = 128 if centred and low < 0 else round(-low / step)
        ends = [self._ops.constant(np.full((1, 1, 1, 1), end * step, np.float32)) for end in (-below, 255 - below)]
        return self._ops.fake_quantize(x, *ends, *ends, 256)

    def _weight(self, name: str, weight: Tensor, *, out: int) -> Node:
        """out: the dimension of output channels, each of which has a scale of its own in int8."""
        if name not in self._ranges:
            return self._constant(weight)
        others = [dimension for dimension in range(4) if dimension != out]
        scale = weight.float().abs().amax(others, keepdim=True).clamp_min(SMALLEST) / 127
        rounded = (weight.float() / scale).round().to(torch.int8).contiguous().numpy()
        return self._ops.multiply(self._ops.convert(self._ops.constant(rounded), np.float32), self._constant(scale))

    def reach(self, x: Node) -> tuple[Node, Node]:
        """The least and the greatest value."""
        every = self._ops.constant([0, 1, 2, 3])
        return self._ops.reduce_min(x, every), self._ops.reduce_max(x, every)

    def _biased(self, name: str, x: Node) -> Node:
        bias = self._state.get(f"{name}.bias")
        if bias is None and name in self._ranges:
            bias = torch.full((self._state[f"{name}.weight"].shape[0],), NO_BIAS)
        return x if bias is None else self._ops.add(x, self._constant(bias.view(1, -1, 1, 1)))

    def _normed(self, name: str, x: Node) -> Node:
        norm = self._module(name)
        assert isinstance(norm, nn.GroupNorm)
        scale, shift = (self._constant(self._state[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self._ops.group_normalization(x, scale, shift, norm.num_groups, norm.eps)

    def _activated(self, activation: str | None, x: Node) -> Node:
        ops = self._ops

        def number(value: float) -> Node:
            return ops.constant(np.float32(value))

        if activation == "clamp":
            return ops.multiply(ops.tanh(ops.divide(x, number(3))), number(3))
        if activation == "unit":
            return ops.add(ops.multiply(x, number(0.5)), number(0.5))
        if activation == "signed":
            return ops.subtract(ops.multiply(x, number(2)), number(1))
        return x if activation is None else {"silu": ops.swish, "relu": ops.relu}[activation](x)

    def _attended(self, step: Step, x: Node) -> Node:
        ops, channels = self._ops, self._line.steps[step.source].channels
        turned, head = ops.constant([0, 2, 1]), ops.constant(1)

        def cells(part: str) -> Node:
            flat = ops.reshape(self._convolution(f"{step.name}.{part}", x), ops.constant([0, channels, -1]), True)
            return ops.unsqueeze(ops.transpose(flat, turned), head)

        gathered = ops.squeeze(ops.scaled_dot_product_attention(cells("q"), cells("k"), cells("v")), head)
        picture = ops.reshape(ops.transpose(gathered, turned), ops.shape_of(x), False)
        return self._convolution(f"{step.name}.proj_out", picture)

    def _constant(self, tensor: Tensor) -> Node:
        return self._ops.constant(tensor.float().contiguous().numpy())

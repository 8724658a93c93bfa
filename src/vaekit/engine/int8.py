"""A half in int8 with OpenVINO: which of its convolutions, and how far their inputs reach, found out once.

Weights get 8 bits with a scale for each output channel, inputs 8 bits from the
least to the greatest value that the sample photos bring there; sums, norms,
attention and the convolutions at both ends stay in the half's dtype. What that
loses is measured against float32 on the same photos. Below 40 dB the
convolutions that lose most for the time they save go back to the half's dtype.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version

from torch import Tensor

from vaekit import folders
from vaekit.engine.fast import openvino
from vaekit.engine.half import Half
from vaekit.errors import NumericsError, OutputError
from vaekit.files import atomic_write

log = logging.getLogger("vaekit")

LEAST = 40.0
"""Decibels against float32 that the worst photo keeps: of decoded pictures, or of latents within their range."""
ROUND = 1
"""Of how files are kept; another number where what stands in them means something else."""


@dataclass(frozen=True)
class Int8:
    """ranges: of the convolutions in int8. of: how many 3×3 convolutions there are. decibels: of the worst photo."""

    ranges: openvino.Ranges
    of: int
    decibels: float

    def __str__(self) -> str:
        return f"int8 in {len(self.ranges)} of {self.of} convolutions ({self.decibels:.1f} dB against float32)"


def settle(half: Half, fingerprint: str, inputs: Callable[[], Sequence[Tensor]]) -> Int8:
    """From the user's cache folder, or calibrated now and kept there.

    half: with OpenVINO as its engine. fingerprint: of the whole VAE, whose encoder
    makes a decoder's inputs. inputs: what the half gets for the sample photos,
    [1, C, H, W] each; asked for only where they are needed.
    """
    told = "-".join((str(half.dtype).removeprefix("torch."), version("openvino"), str(ROUND)))
    path = folders.cache() / "int8" / f"{fingerprint[:32]}-{half.direction}-{told}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text("utf-8"))
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in kept["ranges"].items()}
        if ranges.keys() <= {step.name for step in half.line.steps}:
            return Int8(ranges, int(kept["of"]), float(kept["decibels"]))
    log.info("calibrating int8 to %s on the sample photos; done once, minutes for a large network", half.direction)
    found = _Calibration(half, inputs()).best()
    with suppress(OutputError), atomic_write(path, force=True) as part:  # a cache not written costs time, nothing else
        part.write_text(json.dumps(vars(found)), "utf-8")
    return found


class _Calibration:
    """One half, and what it gives in float32 for the sample photos."""

    def __init__(self, half: Half, inputs: Sequence[Tensor]):
        self._half, self._inputs = half, inputs
        references, self._ranges = openvino.observed(half.line, half.bare(), half.weights, inputs)
        self._references = [self._judged(one) for one in references]
        if not all(bool(one.isfinite().all()) for one in self._references):
            raise NumericsError(f"NaN or infinity comes out of the {half.direction}r in float32: the VAE is broken")

    def best(self) -> Int8:
        """As many convolutions as LEAST allows."""
        of = 2 + len(self._ranges)
        chosen = dict(self._ranges)
        loss = self._loss(chosen)
        if loss > _allowed():
            costs = self._costs(chosen)
            for name in sorted(chosen, key=lambda one: costs[one] / self._operations(one), reverse=True):
                together = sum(costs[one] for one in chosen)
                del chosen[name]
                loss *= sum(costs[one] for one in chosen) / together if together else 0.0
                if (loss <= _allowed() or not chosen) and (loss := self._loss(chosen)) <= _allowed():
                    break
        return Int8(chosen, of, -10 * math.log10(loss or 1e-20))

    def _run(self, ranges: openvino.Ranges) -> openvino.Run:
        return openvino.compiled(self._half.line, self._half.bare(), self._half.weights, self._half.dtype, ranges)

    def _loss(self, ranges: openvino.Ranges) -> float:
        """Mean square of the error of the worst photo, as a part of the range's."""
        run = self._run(ranges)
        results = (self._judged(run(x)) for x in self._inputs)
        return max(self._distance(one, other) for one, other in zip(results, self._references, strict=True))

    def _costs(self, ranges: openvino.Ranges) -> dict[str, float]:
        """What each convolution alone loses in int8, in the middle of a photo."""
        x = _middle(self._inputs[0])
        plain = self._judged(self._run({})(x))
        return {
            name: self._distance(self._judged(self._run({name: reach})(x)), plain) for name, reach in ranges.items()
        }

    def _judged(self, result: Tensor) -> Tensor:
        """Pictures as they are shown; of moments the mean."""
        if self._half.direction == "decode":
            return result.clamp(-1, 1)
        return result[:, : self._half.config.latent_channels]

    def _distance(self, one: Tensor, other: Tensor) -> float:
        reach = 2.0 if self._half.direction == "decode" else float(other.max() - other.min())
        return float((one - other).square().mean()) / reach**2

    def _operations(self, name: str) -> float:
        line = self._half.line
        return sum(line.operations(i, 256, 256) for i, step in enumerate(line.steps) if step.name == name)


def _allowed() -> float:
    return float(10 ** (-LEAST / 10))


def _middle(x: Tensor) -> Tensor:
    """The half of each side around the centre, its length a multiple of 8 so that an encoder can take it."""
    for dimension in (2, 3):
        whole = x.shape[dimension]
        side = max(whole // 16 * 8, min(whole, 8))
        x = x.narrow(dimension, (whole - side) // 2, side)
    return x

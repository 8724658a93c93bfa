"""How far values reach in a network that is to run in int8."""

from __future__ import annotations

import torch

from vaekit.bench.peers import half
from vaekit.bench.subject import Subject
from vaekit.checkpoints.fingerprint import fingerprint
from vaekit.engine.fast import openvino
from vaekit.loading import calibrated


def ranges(subject: Subject, device: torch.device) -> openvino.Ranges:
    """As `quality="fast"` finds them; for random weights, which no photo fits, of all convolutions and from noise.

    Raises OptionError where int8 does not run.
    """
    one = half(subject, device, quality="fast")
    if subject.source is None:
        return openvino.observed(one.line, one.bare(), one.weights, [subject.example(256, 1)])[1]
    whole = fingerprint(subject.state).vae
    return calibrated(subject.config, subject.state, whole, subject.direction, one.dtype).ranges

"""A VAE's weights, and what its layers give, against what float16 can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checkpoints.locate import Location, locate
from vaekit.checkpoints.read import open_vae
from vaekit.doctor.findings import Finding
from vaekit.families import Family

FLOAT16_MAX: float = torch.finfo(torch.float16).max
CLOSE = 2.0
"""How many times more than on the sample photos is to be expected on others."""

Peaks = Mapping[str, float]
"""Layer -> the largest magnitude that came out of it, in the order they ran; infinite where NaN or infinity did."""


def check_weights(path: Path) -> list[Finding]:
    """NaN and infinite weights of the VAE in a file, folder or checkpoint, one finding for each tensor.

    Raises FileError, UnsafeFileError and NotAVAEError.
    """
    location = locate(path)
    places = [location] if location.decoder is None else [location, Location(location.decoder)]
    return [finding for place in places for finding in _check_file(place)]


def _check_file(location: Location) -> Iterator[Finding]:
    source, identity = open_vae(location)
    for name, values in source.load(identity.names.values()).items():
        wide = values if values.element_size() > 1 else values.to(torch.float32)
        broken = int((~torch.isfinite(wide)).sum())
        if broken:
            yield Finding(
                "broken-weights",
                f"{broken:,} of {values.numel():,} weights are NaN or infinite",
                name,
                "certain",
                "no VAE can run with them: get the file anew, from another source if that does not help",
            )


@contextmanager
def watch(network: nn.Module) -> Iterator[dict[str, float]]:
    """The Peaks of a network over all runs inside; a layer that only passes on what another gave comes after it."""
    peaks: dict[str, float] = {}
    hooks = [module.register_forward_hook(_note(name, peaks)) for name, module in network.named_modules() if name]
    try:
        yield peaks
    finally:
        for hook in hooks:
            hook.remove()


def _note(name: str, peaks: dict[str, float]) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, given: object, output: Tensor) -> None:
        low, high = (float(bound) for bound in output.aminmax())
        finite = math.isfinite(low) and math.isfinite(high)
        peaks[name] = max(peaks.get(name, 0.0), max(-low, high) if finite else math.inf)

    return hook


def measure_activations(peaks: Peaks) -> dict[str, Any]:
    """For JSON: the worst layer, its largest magnitude, what share of float16's range that is, and every layer's.

    None stands for what is not finite.
    """
    worst = _worst(peaks)
    layers = {name: largest if math.isfinite(largest) else None for name, largest in peaks.items()}
    share = peaks[worst] / FLOAT16_MAX if math.isfinite(peaks[worst]) else None
    return {"worst_layer": worst, "largest": layers[worst], "of_float16": share, "layers": layers}


def check_activations(peaks: Peaks, families: Sequence[Family]) -> list[Finding]:
    """What float16 would make of layers that ran in float32, or what float32 made of them; at most one finding.

    families: those the VAE may belong to; for SDXL there is a VAE that was made for float16.
    """
    worst = _worst(peaks)
    broken = [name for name, largest in peaks.items() if math.isinf(largest)]
    beyond = [name for name, largest in peaks.items() if largest > FLOAT16_MAX]
    share = peaks[worst] / FLOAT16_MAX
    if broken:
        what = f"gives NaN or infinity in float32, from {broken[0]} on"
        return [Finding("broken-output", what, broken[0], "certain", "get the file anew; its weights are damaged")]
    if beyond:
        at = beyond[0] if beyond[0] == worst else f"{beyond[0]} first and most at {worst}"
        what = f"overflows in float16 at {at}, {share:.3g} times its limit"
        return [Finding("float16-overflow", what, beyond[0], "certain", _advice(families))]
    if share * CLOSE > 1:
        what = f"comes near to overflow in float16 at {worst}, {share:.0%} of its limit on the sample photos"
        return [Finding("float16-overflow", what, worst, "possible", _advice(families))]
    return []


def _worst(peaks: Peaks) -> str:
    return max(peaks, key=lambda layer: peaks[layer])


def _advice(families: Sequence[Family]) -> str:
    fixed = ", or the fixed VAE (sdxl-vae-fp16-fix)" if "sdxl" in [family.name for family in families] else ""
    return f"use bfloat16 or float32 (--dtype){fixed}"

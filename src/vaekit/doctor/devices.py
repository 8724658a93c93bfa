"""A known picture through a VAE on each device and in each dtype, against the CPU in float32.

Some back ends are wrong in silence: one published case brings a picture back at 6.6 dB where the CPU reaches 49.1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from vaekit import assets, images
from vaekit.checkpoints.read import Weights
from vaekit.doctor.findings import Finding
from vaekit.doctor.samples import Track
from vaekit.engine.half import Direction, Half
from vaekit.errors import NumericsError, ResourceError

SIDE = 256
LIMITS = {torch.float32: 40.0, torch.float16: 35.0, torch.bfloat16: 20.0}
"""dB that a dtype must reach; its rounding (on GPUs also TF32's) costs less, wrong arithmetic costs more."""


@dataclass(frozen=True)
class Trial:
    """One direction on one device in one dtype.

    decibels: signal to noise of the latents, or PSNR of the picture, against the CPU in float32; infinite where
    nothing differs, None where nothing came. overflowed: NaN or infinity came. problem: why it cannot be run.
    """

    device: str
    dtype: str
    direction: Direction
    decibels: float | None
    seconds: float | None = None
    overflowed: bool = False
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: decibels is None for equal results, and `identical` says so."""
        identical = self.decibels == math.inf
        return asdict(self) | {"decibels": None if identical else self.decibels, "identical": identical}


def devices() -> list[torch.device]:
    """What networks run on in this machine, the CPU first."""
    found = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    return [*found, torch.device("mps")] if torch.backends.mps.is_available() else found


def try_devices(
    weights: Weights, where: Sequence[torch.device] | None = None, *, track: Track = iter
) -> Iterator[Trial]:
    """Encode and decode a part of a bundled photo on each device (None: all there are), in each dtype.

    Every decoder gets the latents of the CPU in float32, so a wrong encoder does not count twice; where there is no
    encoder they are noise. Raises NumericsError where the CPU in float32 gives NaN, for then nothing can be compared.
    """
    config = weights.identity.config
    photo = images.read(assets.sample_photos()[0]).pixels[..., :SIDE, :SIDE]
    steps: list[tuple[Direction, Tensor]] = []
    latents = torch.randn(1, config.latent_channels, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    if config.has_encoder:
        pixels = images.pad(photo, config.downscale)
        steps.append(("encode", pixels))
        latents = _run(_half("encode", weights, torch.device("cpu"), torch.float32), pixels)
    if config.has_decoder:
        steps.append(("decode", latents))
    references = [_run(_half(direction, weights, torch.device("cpu"), torch.float32), x) for direction, x in steps]
    for device, dtype in track([*product(devices() if where is None else where, LIMITS)]):
        for (direction, x), reference in zip(steps, references, strict=True):
            yield _try(weights, direction, x, reference, device, dtype)


def _half(direction: Direction, weights: Weights, device: torch.device, dtype: torch.dtype) -> Half:
    return Half(direction, weights.identity.config, weights.state, dtype=dtype, device=device)


def _run(half: Half, x: Tensor) -> Tensor:
    """Latents, or a picture as one sees it, on the CPU."""
    return half.encode(x).mean.cpu() if half.direction == "encode" else half.decode(x).cpu().clamp(-1, 1)


def _try(
    weights: Weights, direction: Direction, x: Tensor, reference: Tensor, device: torch.device, dtype: torch.dtype
) -> Trial:
    name = str(dtype).removeprefix("torch.")
    try:
        half = _half(direction, weights, device, dtype)
        _run(half, x)  # the first run makes a device ready; the second is timed
        started = time.perf_counter()
        result = _run(half, x)
        seconds = time.perf_counter() - started
    except NumericsError:
        return Trial(str(device), name, direction, None, overflowed=True)
    except (ResourceError, RuntimeError, TypeError) as error:
        return Trial(str(device), name, direction, None, problem=" ".join(str(error).split())[:120])
    if half.dtype != dtype:  # it was repeated in float32
        return Trial(str(device), name, direction, None, overflowed=True)
    return Trial(str(device), name, direction, decibels(reference, result, direction), seconds)


def decibels(reference: Tensor, result: Tensor, direction: Direction) -> float:
    """Signal-to-noise ratio of latents; PSNR of pictures in [-1, 1]. Infinite where nothing differs."""
    signal = 4.0 if direction == "decode" else float(reference.double().var())
    noise = float((reference.double() - result.double()).square().mean())
    return 10 * math.log10(signal / noise) if noise else math.inf


def check_trials(trials: Sequence[Trial]) -> list[Finding]:
    """Which devices give something else than the CPU. Overflow that the CPU has too is the VAE's own."""
    own = {(trial.dtype, trial.direction) for trial in trials if trial.device == "cpu" and trial.overflowed}
    return [finding for t in trials if not (t.overflowed and (t.dtype, t.direction) in own) for finding in _check(t)]


def _check(trial: Trial) -> Iterator[Finding]:
    limit = LIMITS[getattr(torch, trial.dtype)]
    if trial.overflowed:
        off = "gives NaN or infinity, where the CPU gives none"
    elif trial.decibels is not None and trial.decibels < limit:
        off = f"is {trial.decibels:.1f} dB off the CPU in float32, and not {limit:.0f} or more"
    else:
        return
    what = f"to {trial.direction} in {trial.dtype} on {trial.device} {off}"
    yield Finding("wrong-on-device", what, trial.device, "certain", "take a dtype that passes, or --device cpu")

"""Statistics of latents, and what looks wrong in them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaekit.families import Family, families
from vaekit.latents.core import Latents

Values = NDArray[np.float64]

ENOUGH_VALUES = 256
"""Below this many values a standard deviation says little about the scale."""

LOWEST_STD, HIGHEST_STD = 0.5, 2.0
"""Outside of these a standard deviation that should be about 1 is told."""

NEAR = 1.5
"""A cause is named where it would give the standard deviation found, within this factor."""

FAR = 4.0
"""Values beyond this are counted."""


@dataclass(frozen=True)
class Spread:
    """Of the finite values, computed in float64; NaN where there are none."""

    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class Statistics:
    """What `summary` finds. warnings: what is probably wrong. notes: what is good to know."""

    family: str
    shape: tuple[int, ...]
    size: tuple[int, int]
    overall: Spread
    channels: tuple[Spread, ...]
    nan: int
    inf: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN and no infinity: they become None."""
        return {name: _for_json(value) for name, value in asdict(self).items()}


def summary(latents: Latents) -> Statistics:
    """Statistics of all pictures of the batch together, per channel and overall.

    Warns of NaN and infinity, of channels that are constant, and of a standard
    deviation far from 1, with the likely cause. A wrong scale that leaves it
    between 0.5 and 2 cannot be seen in the numbers (SD3's raw latents have 0.65).
    """
    values = latents.tensor.detach().cpu().double().numpy()
    channels = tuple(_spread(values[:, number]) for number in range(values.shape[1]))
    overall = _spread(values)
    nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    warnings = (
        _about_nonfinite(nan, inf, values.size),
        _about_constant(channels, values),
        _about_scale(latents, values),
    )
    notes = (_about_far(latents.family, values),)
    return Statistics(
        family=latents.family.name,
        shape=tuple(latents.tensor.shape),
        size=latents.size,
        overall=overall,
        channels=channels,
        nan=nan,
        inf=inf,
        warnings=tuple(filter(None, warnings)),
        notes=tuple(filter(None, notes)),
    )


def _spread(values: Values) -> Spread:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Spread(math.nan, math.nan, math.nan, math.nan)
    with np.errstate(over="ignore", invalid="ignore"):  # float64 latents near the largest number
        return Spread(float(finite.mean()), float(finite.std()), float(finite.min()), float(finite.max()))


def _about_nonfinite(nan: int, inf: int, count: int) -> str | None:
    if not nan and not inf:
        return None
    found = " and ".join(f"{number:,} {name}" for number, name in ((nan, "NaN"), (inf, "infinite")) if number)
    return f"{found} of {count:,} values; they decode to black or to noise (encoded in float16?)"


def _about_constant(channels: tuple[Spread, ...], values: Values) -> str | None:
    if values[:, 0].size < 2:
        return None
    constant = [str(number) for number, spread in enumerate(channels) if spread.min == spread.max]
    if not constant:
        return None
    shown = ", ".join(constant[:8]) + (" …" if len(constant) > 8 else "")
    return f"channel{'s' if len(constant) > 1 else ''} {shown}: one value everywhere"


def _about_scale(latents: Latents, values: Values) -> str | None:
    std, count = _spread(values).std, int(np.isfinite(values).sum())
    if count < ENOUGH_VALUES or LOWEST_STD <= std <= HIGHEST_STD:
        return None
    fact = f"standard deviation {std:.3g}, where {latents.family.name} has about 1"
    cause = _likely_cause(latents.family, std)
    if cause:
        return f"{fact}: {cause}"
    return f"{fact}: a flat picture, or a wrong scale" if std < LOWEST_STD else f"{fact}: a wrong scale?"


def _likely_cause(family: Family, std: float) -> str | None:
    """The mistake whose standard deviation is nearest to the one found, if it is near."""
    if not 0 < std < math.inf:
        return None
    near = [(abs(math.log(std / expected)), cause) for cause, expected in _mistakes(family).items() if expected > 0]
    distance, cause = min(near, key=lambda candidate: candidate[0])
    return cause if distance < math.log(NEAR) else None


def _mistakes(family: Family) -> dict[str, float]:
    """What can go wrong with the scale, and the standard deviation that good latents have afterwards."""
    # Two cells at ±1: mean 0 and standard deviation 1 in every channel, as good latents have.
    good = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(1, family.latent_channels, 1, 2)
    mistakes = {
        "they look unscaled (raw); read them with scaled=False": family.unscale(good),
        "they look scaled twice": family.scale(good),
    }
    for other in families().values():
        related = other.latent_channels == family.latent_channels and other.name != family.name
        if related and not other.name.startswith("mini"):  # whose latents nobody takes for another family's
            cause = f"they look like raw latents of {other.name} scaled as {family.name}"
            mistakes[cause] = family.scale(other.unscale(good))
    return {cause: float(values.std(correction=0)) for cause, values in mistakes.items()}


def _about_far(family: Family, values: Values) -> str | None:
    count = int((np.abs(values[np.isfinite(values)]) > FAR).sum())
    if not count:
        return None
    harm = "; sd1's decoders tend to make blotches there" if family.name == "sd1" else ""
    return f"{count:,} of {values.size:,} values lie beyond ±{FAR:.0f}{harm}"


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _for_json(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

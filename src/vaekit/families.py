"""What is known about each latent space. The numbers stand in families.toml."""

from __future__ import annotations

import difflib
import math
import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from vaekit.errors import FamilyError

if TYPE_CHECKING:
    from torch import Tensor

Rgb = tuple[float, float, float]

SPACE = {"name", "latent_channels", "downscale", "fold", "scaling_factor", "shift_factor", "mean", "std"}
"""What makes a latent space."""


class KLShape(BaseModel):
    """What tells a KL network of a family by its tensors' shapes; sd1 and sdxl have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent_channels: PositiveInt
    downscale: PositiveInt
    quant_conv: bool
    channels: tuple[PositiveInt, ...]


class Family(BaseModel):
    """One latent space. VAEs of one family are interchangeable; across families they are not.

    latent_channels and downscale are those of model space, as the sampler sees
    the latents. `scale` and `unscale` are the only places where scaling factor,
    shift, mean and std are applied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    latent_channels: PositiveInt
    downscale: PositiveInt
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fold: PositiveInt = 1
    kl: KLShape | None = None
    tiny: PositiveInt | None = None
    preview: tuple[Rgb, ...] | None = None
    preview_bias: Rgb = (0.0, 0.0, 0.0)

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        per_channel = [values for values in (self.mean, self.std) if values is not None]
        if len(per_channel) == 1 or any(len(values) != self.latent_channels for values in per_channel):
            raise ValueError(f"mean and std do not fit {self.latent_channels} channels")
        numbers = (self.scaling_factor, self.shift_factor, *(number for values in per_channel for number in values))
        if not all(map(math.isfinite, numbers)) or 0 in (self.scaling_factor, *(self.std or ())):
            raise ValueError("a scale is zero or not finite")
        if self.preview is not None and len(self.preview) * self.fold**2 != self.latent_channels:
            raise ValueError(f"the preview factors do not fit {self.latent_channels} channels")
        return self

    def same_space(self, other: Family) -> bool:
        """Whether latents of one are latents of the other: names and numbers decide, titles and previews do not."""
        return self.model_dump(include=SPACE) == other.model_dump(include=SPACE)

    def scale(self, raw: Tensor) -> Tensor:
        """Raw latents of a KL network [B, C, h, w] -> model space, standard deviation about 1."""
        if self.mean is None or self.std is None:
            return (raw - self.shift_factor) * self.scaling_factor
        mean, std = (raw.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (raw - mean) / std * self.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        """Model space [B, C, h, w] -> what a KL network decodes."""
        if self.mean is None or self.std is None:
            return latents / self.scaling_factor + self.shift_factor
        mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return latents / self.scaling_factor * std + mean


@cache
def families() -> dict[str, Family]:
    """Every family by name."""
    text = resources.files("vaekit").joinpath("families.toml").read_text("utf-8")
    return {name: Family(name=name, **values) for name, values in tomllib.loads(text).items()}


def family(name: str) -> Family:
    """The family of that name. Raises FamilyError with the nearest names."""
    known = families()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise FamilyError(f"no family is called {name!r}; {hint}")

"""What is known about each latent space. The numbers stand in families.toml."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, PositiveInt

from vaekit.errors import FamilyError

if TYPE_CHECKING:
    from torch import Tensor

Rgb = tuple[float, float, float]


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

"""What is known about each latent space. The numbers stand in families.toml, which a user's own file extends."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from vaekit import folders, tables
from vaekit.errors import FamilyError
from vaekit.tables import Tables

if TYPE_CHECKING:
    from torch import Tensor

Rgb = tuple[float, float, float]

SPACE = {"name", "latent_channels", "downscale", "fold", "scaling_factor", "shift_factor", "mean", "std"}
"""What makes a latent space."""

VARIABLE = "VAEKIT_FAMILIES"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


class KLShape(BaseModel):
    """What tells a KL network of a family by its tensors' shapes; sd1 and sdxl have the same.

    norm_groups is what no shape tells, for files without a configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent_channels: PositiveInt
    downscale: PositiveInt
    quant_conv: bool
    channels: tuple[PositiveInt, ...]
    norm_groups: PositiveInt = 32


class Family(BaseModel):
    """One latent space. VAEs of one family are interchangeable; across families they are not.

    latent_channels and downscale are those of model space, as the sampler sees
    the latents. tiny: channels of its TAESD-type networks; tiny_width: how wide
    they are where a file does not tell its family, None for any. `scale` and
    `unscale` are the only places where scaling factor, shift, mean and std are
    applied.
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
    tiny_width: PositiveInt | None = None
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
        channels = (self.tiny, self.kl.latent_channels if self.kl else None)
        if any(given is not None and given * self.fold**2 != self.latent_channels for given in channels):
            raise ValueError(f"the channels of kl or tiny do not fit {self.latent_channels} channels")
        if self.kl is not None and self.kl.downscale * self.fold != self.downscale:
            raise ValueError(f"kl does not fit latents at 1/{self.downscale} of the side")
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


def families() -> dict[str, Family]:
    """Every family by name: those that ship with vaekit, then those in the user's own file.

    Raises FileError with the line that is wrong in that file.
    """
    return _families(own_file())


def family(name: str) -> Family:
    """The family of that name. Raises FamilyError with the nearest names."""
    known = families()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise FamilyError(f"no family is called {name!r}; {hint}")


def own_file() -> Path | None:
    """The user's own families: what VAEKIT_FAMILIES names, else families.toml in the configuration folder, if any."""
    return folders.own_file(VARIABLE, "families.toml")


@cache
def _families(own: Path | None) -> dict[str, Family]:
    text = resources.files("vaekit").joinpath("families.toml").read_text("utf-8")
    shipped = {name: Family(name=name, **values) for name, values in tomllib.loads(text).items()}
    file = tables.read(own) if own is not None else None
    return shipped | ({name: _own_family(file, name, shipped.get(name)) for name in file.tables} if file else {})


def _own_family(file: Tables, name: str, shipped: Family | None) -> Family:
    """A table of the user's; one with a shipped name changes what it tells, and the latent space stays."""
    if not NAME.fullmatch(name):
        raise file.wrong((name,), "the name of a family has letters, digits, '-', '_' and '.' only")
    own = file.check(name, Family, shipped.model_dump(exclude_unset=True) if shipped else None)
    if shipped is not None and not own.same_space(shipped):
        other = next(key for key in Family.model_fields if key in SPACE and getattr(own, key) != getattr(shipped, key))
        raise file.wrong((name, other), f"{name} ships with vaekit with another value; give your family another name")
    return own

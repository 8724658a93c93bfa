"""What a picture is drawn by: checked before anything is loaded."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from vaekit.errors import OptionError
from vaekit.generate.prompts import clean
from vaekit.generate.samplers import AUTOMATIC, Sampler, Schedule, choose

Resize = Literal["stretch", "crop", "pad"]
Upscaler = Literal["latent", "pixel"]
Fill = Literal["original", "surroundings", "noise", "nothing"]
Area = Literal["whole", "masked"]

MOST_PIXELS = 1 << 26
"""8192×8192."""
LONGEST = 8192
MULTIPLE = 8
MOST_STEPS = 1000
MOST_PICTURES = 10_000
LIMIT = 3.9
"""What latents are kept within against the blotches of SD 1.x's decoders."""


@dataclass(frozen=True)
class Hires:
    """A second pass at a larger size.

    scale: of each side. upscaler: in latent space, or decoded, enlarged and encoded
    again. strength: of the noise that is added. steps: 0 for as many as the first
    pass. vae: encodes and decodes the second pass, where another is wished.
    """

    scale: float = 2.0
    upscaler: Upscaler = "latent"
    strength: float = 0.7
    steps: int = 0
    vae: str | None = None

    def __post_init__(self) -> None:
        if not 1 < self.scale <= 8:
            raise OptionError(f"a hires scale of {self.scale:g} is not possible; between 1 and 8")
        if self.upscaler not in get_args(Upscaler):
            raise OptionError(f"no hires upscaler is called {self.upscaler!r}; there are latent and pixel")
        check_strength(self.strength, "hires strength")
        if not 0 <= self.steps <= MOST_STEPS:
            raise OptionError(f"{self.steps} hires steps are not possible; 0 (as the first pass) to {MOST_STEPS}")

    def size(self, first: tuple[int, int]) -> tuple[int, int]:
        """Of the second pass, in pixels, whole cells."""
        width, height = (int(side * self.scale) // MULTIPLE * MULTIPLE for side in first)
        check_size((width, height))
        return width, height


@dataclass(frozen=True)
class Settings:
    """Everything that decides a picture, but for checkpoint and VAE.

    size: (width, height) in pixels; None for the model's own. cfg: how strongly the
    prompt guides; 1 and less leaves guidance out. seed: of the first picture, the
    next ones count up; None draws one. clip_skip: as A1111 counts, 1 for the last
    layer. seamless: edges fit one another. limit: keep latents within ±3.9.
    Raises OptionError for what is not possible.
    """

    prompt: str
    negative: str = ""
    steps: int = 20
    cfg: float = 7.0
    seed: int | None = None
    size: tuple[int, int] | None = None
    sampler: str = "DPM++ 2M"
    schedule: str = AUTOMATIC
    batch_size: int = 1
    count: int = 1
    clip_skip: int | None = None
    hires: Hires | None = None
    seamless: bool = False
    limit: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", clean(self.prompt))
        object.__setattr__(self, "negative", clean(self.negative))
        if not 1 <= self.steps <= MOST_STEPS:
            raise OptionError(f"{self.steps} steps are not possible; 1 to {MOST_STEPS}")
        if not (math.isfinite(self.cfg) and 0 <= self.cfg <= 100):
            raise OptionError(f"a CFG scale of {self.cfg:g} is not possible; 0 to 100")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise OptionError(f"seed {self.seed} is not possible; 0 to {2**63 - 1}")
        if self.size is not None:
            check_size(self.size)
        if self.batch_size < 1 or self.count < 1 or self.batch_size * self.count > MOST_PICTURES:
            raise OptionError(f"{self.count} times {self.batch_size} pictures are not possible; 1 to {MOST_PICTURES:,}")
        if self.clip_skip is not None and not 1 <= self.clip_skip <= 32:
            raise OptionError(f"clip skip {self.clip_skip} is not possible; from 1, the last layer")
        self.chosen()

    def chosen(self) -> tuple[Sampler, Schedule]:
        """The sampler and the schedule by name."""
        return choose(self.sampler, self.schedule)

    def seeded(self) -> Settings:
        """The same with a seed, drawn where none was given."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(2**32))


@dataclass(frozen=True)
class Change:
    """What img2img does with a picture.

    strength: how much noise is added, 0 to 1. resize: how the picture comes to the
    wished size. mask: white is drawn anew; blur: of its edge, in pixels;
    untouched: what is not masked comes back as it was, not by way of the VAE.
    alpha: the colour that a transparent picture is laid over.
    """

    picture: Path
    strength: float = 0.75
    resize: Resize = "stretch"
    mask: Path | None = None
    blur: float = 4.0
    untouched: bool = True
    alpha: str = "white"
    invert: bool = False
    fill: Fill = "original"
    area: Area = "whole"
    margin: int = 32

    def __post_init__(self) -> None:
        check_strength(self.strength, "strength")
        if self.resize not in get_args(Resize):
            raise OptionError(f"no way to resize is called {self.resize!r}; there are {', '.join(get_args(Resize))}")
        if not 0 <= self.blur <= 512:
            raise OptionError(f"a mask blur of {self.blur:g} pixels is not possible; 0 to 512")
        if self.fill not in get_args(Fill):
            raise OptionError(f"no fill is called {self.fill!r}; there are {', '.join(get_args(Fill))}")
        if self.area not in get_args(Area):
            raise OptionError(f"no area is called {self.area!r}; there are {', '.join(get_args(Area))}")
        if not 0 <= self.margin <= LONGEST:
            raise OptionError(f"a margin of {self.margin} pixels is not possible; 0 to {LONGEST}")
        idle = self.mask is None and (self.invert or self.fill != "original" or self.area != "whole")
        if idle:
            raise OptionError("invert, fill and area are of a mask, and there is none")
        if self.area == "masked" and not self.untouched:
            raise OptionError("what is drawn around the mask alone is put back into the picture as it was")


def check_strength(strength: float, called: str) -> None:
    if not 0 <= strength <= 1:
        raise OptionError(f"a {called} of {strength:g} is not possible; 0 to 1")


def check_size(size: tuple[int, int]) -> None:
    """Raise OptionError for a size that no picture is drawn in."""
    width, height = size
    wrong = next((side for side in size if not MULTIPLE <= side <= LONGEST), None)
    if wrong is not None:
        raise OptionError(f"{width}×{height} is not possible: each side has {MULTIPLE} to {LONGEST} pixels")
    if any(side % MULTIPLE for side in size):
        near = "×".join(str(max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)) for side in size)
        raise OptionError(f"{width}×{height} is not possible: sides are multiples of {MULTIPLE}; {near} is near")


def parse_size(text: str) -> tuple[int, int]:
    """512, or 512x768 (width by height). Raises OptionError."""
    parts = text.lower().replace("×", "x").split("x")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise OptionError(f"{text!r} is no size; 512, or 512x768 for width by height")
    size = (sides[0], sides[-1])
    check_size(size)
    return size

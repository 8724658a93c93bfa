"""What a VAE does to pictures: colour cast, paleness, purple blotches, by what comes back of the sample photos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaekit.doctor.findings import Finding, in_words
from vaekit.quality.metrics import psnr, ssim
from vaekit.quality.places import Box

LOST = 0.35
"""SSIM: with less, what comes back is not the picture that went in."""
CAST = 3.0
"""Units of a* or b*; so much of a cast is seen without the original beside it."""
PALE = 0.85
"""What must be left of contrast and of saturation."""
CELL = 8
"""Pixels: colours are compared as means of such squares, where the detail that a VAE loses plays no part."""
PURPLE = 12.0
"""Units of L*a*b* towards purple, beyond what befalls the same colour elsewhere."""
BLOTCHY = 0.006
"""Share of the squares that must be so purple; sound VAEs stay below half of it."""
ONE_SIDED = 3.0
"""How many times more of them must be purple than green: coarse errors of colour go both ways."""
ROUNDS = 8
"""Of the fit; its weights have settled then."""

OTHER_VAE = "take another VAE of the same family; vaekit compare shows them side by side"

Lab = NDArray[np.float64]


@dataclass(frozen=True)
class Blotch:
    """Where a decoder made the sample photos purple: which of them, a box in pixels, units of L*a*b* beyond the fit."""

    photo: int
    box: Box
    strength: float


@dataclass(frozen=True)
class Behaviour:
    """What the map that fits the colours of all photos says, most of their squares at least, beside two means.

    contrast: what it makes of L*. saturation: what it makes of a* and b*. green_magenta, blue_yellow: the a* and b*
    that middle grey becomes; + is magenta, + is yellow. Gains are None where the originals vary too little to tell.
    psnr (dB, equal pictures count as 100) and ssim: means over the photos. purple, green: shares of the squares that
    are so far beyond the map. blotches: connected regions of the purple ones, the strongest first.
    """

    psnr: float
    ssim: float
    contrast: float | None
    saturation: float | None
    green_magenta: float
    blue_yellow: float
    purple: float
    green: float
    blotches: tuple[Blotch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_behaviour(originals: Sequence[Image.Image], decoded: Sequence[Image.Image]) -> Behaviour:
    """RGB photos and what a VAE made of them, in the same sizes, each side of at least 11 pixels."""
    pairs = list(zip(originals, decoded, strict=True))
    grids = [(_colours(before), _colours(after)) for before, after in pairs]
    before, after = (np.concatenate([grid[side].reshape(-1, 3) for grid in grids]) for side in (0, 1))
    fit = _fit(before, after)
    varies = before.var(axis=0) >= 1
    grey = _apply(fit, np.array([[50.0, 0, 0]]))[0]
    beyond = [_towards_purple(second - _apply(fit, first)) for first, second in grids]
    everywhere = np.concatenate([values.ravel() for values in beyond])
    return Behaviour(
        psnr=float(np.mean([min(psnr(*pair), 100.0) for pair in pairs])),
        ssim=float(np.mean([ssim(*pair) for pair in pairs])),
        contrast=float(fit[0, 0]) if varies[0] else None,
        saturation=float(np.mean([fit[1, 1], fit[2, 2]])) if varies[1:].all() else None,
        green_magenta=float(grey[1]),
        blue_yellow=float(grey[2]),
        purple=float(np.mean(everywhere > PURPLE)),
        green=float(np.mean(everywhere < -PURPLE)),
        blotches=tuple(sorted(_regions(beyond), key=lambda blotch: -blotch.strength)),
    )


def _colours(picture: Image.Image) -> Lab:
    """L*a*b* of the squares of a picture, [rows, columns, 3]."""
    from skimage.color import rgb2lab

    width, height = (max(1, side // CELL) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(rgb2lab(np.asarray(small)), np.float64)


def _fit(before: Lab, after: Lab) -> Lab:
    """The affine map [4, 3] that fits most colours, by least squares over again: what is far off hardly counts."""
    inputs = _with_one(before)
    weights = np.ones(len(inputs))
    for _ in range(ROUNDS):
        fit = np.linalg.lstsq(inputs * weights[:, None], after * weights[:, None], rcond=None)[0]
        distance = np.linalg.norm(after - inputs @ fit, axis=1)
        weights = 1 / np.sqrt(np.maximum(distance, 1.0))
    return np.asarray(fit)


def _apply(fit: Lab, colours: Lab) -> Lab:
    return np.asarray(_with_one(colours) @ fit)


def _with_one(colours: Lab) -> Lab:
    return np.concatenate([colours, np.ones((*colours.shape[:-1], 1))], axis=-1)


def _towards_purple(difference: Lab) -> Lab:
    """Halfway between magenta and blue; green and yellow are below 0."""
    return np.asarray((difference[..., 1] - difference[..., 2]) / math.sqrt(2))


def _regions(beyond: Sequence[Lab]) -> Iterator[Blotch]:
    from skimage.measure import label, regionprops

    for photo, values in enumerate(beyond):
        for region in regionprops(label(values > PURPLE), intensity_image=values):  # type: ignore[no-untyped-call]
            top, left, bottom, right = (int(edge) * CELL for edge in region.bbox)
            yield Blotch(photo, (left, top, right, bottom), float(region.intensity_max))


def check_behaviour(behaviour: Behaviour, photos: Sequence[str] = ()) -> list[Finding]:
    """What of it is a fault; one that loses the picture has no other. photos: their names, as they were measured."""
    if behaviour.ssim < LOST:
        what = f"what it decodes is not what it encoded: SSIM {behaviour.ssim:.2f}, {behaviour.psnr:.1f} dB"
        advice = "get the file anew; encoder and decoder may be of two families, or the weights damaged"
        return [Finding("not-the-picture", what, "the sample photos", "certain", advice)]
    return [*_cast(behaviour), *_paleness(behaviour), *_blotches(behaviour, photos)]


def _cast(behaviour: Behaviour) -> Iterator[Finding]:
    strength = max(abs(behaviour.green_magenta), abs(behaviour.blue_yellow))
    if strength >= CAST:
        what = f"colour cast to {_tint(behaviour)}: {strength:.1f} units of L*a*b*"
        yield Finding("colour-cast", what, "the sample photos", "certain", OTHER_VAE)


def _tint(behaviour: Behaviour) -> str:
    shifts = {("green", "magenta"): behaviour.green_magenta, ("blue", "yellow"): behaviour.blue_yellow}
    return " and ".join(names[shift > 0] for names, shift in shifts.items() if abs(shift) >= CAST)


def _paleness(behaviour: Behaviour) -> Iterator[Finding]:
    left = {"contrast": behaviour.contrast, "saturation": behaviour.saturation}
    lost = [f"{value:.0%} of the {name}" for name, value in left.items() if value is not None and value < PALE]
    if lost:
        yield Finding("pale", f"pale: leaves {' and '.join(lost)}", "the sample photos", "certain", OTHER_VAE)


def _blotches(behaviour: Behaviour, photos: Sequence[str]) -> Iterator[Finding]:
    if behaviour.purple >= BLOTCHY and behaviour.purple >= ONE_SIDED * behaviour.green:
        worst, count = behaviour.blotches[0], len(behaviour.blotches)
        places = "1 place" if count == 1 else f"{count} places"
        what = f"turns {behaviour.purple:.1%} of the sample photos purple, in {places}"
        where = f"worst in {photos[worst.photo] if photos else f'photo {worst.photo + 1}'}, {in_words(worst.box)}"
        advice = "take another VAE of the same family; for SD 1.x, ft-EMA and ft-MSE were made without them"
        yield Finding("purple-blotches", f"purple blotches: {what}", where, "likely", advice)

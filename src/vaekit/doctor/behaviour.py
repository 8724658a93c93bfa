"""What a VAE does to pictures: colour cast, paleness, purple blotches, by what comes back of the sample photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaekit.doctor.blotches import find_new_blotches
from vaekit.doctor.findings import Finding
from vaekit.quality.metrics import psnr, ssim

LOST = 0.35
"""SSIM: with less, what comes back is not the picture that went in."""
CAST = 3.0
"""Units of a* or b*; so much of a cast is seen without the original beside it."""
PALE = 0.85
"""What must be left of contrast and of saturation."""
BLOCK = 8
"""Pixels: colours are compared as means of such squares, where the detail that a VAE loses plays no part."""

OTHER_VAE = "take another VAE of the same family; vaekit compare shows them side by side"

Lab = NDArray[np.float64]


@dataclass(frozen=True)
class Behaviour:
    """What the straight line of least squares through the colours of all photos says, beside two means.

    contrast: its slope for L*. saturation: that for a* and b* together. green_magenta, blue_yellow: the a* and b*
    that neutral grey becomes; + is magenta, + is yellow. Slopes are None where the originals vary too little to
    tell. psnr (dB, equal pictures count as 100) and ssim: means over the photos. blotches: purple ones that the
    originals do not have, over all photos.
    """

    psnr: float
    ssim: float
    contrast: float | None
    saturation: float | None
    green_magenta: float
    blue_yellow: float
    blotches: int

    def to_dict(self) -> dict[str, float | None]:
        """Plain values for JSON."""
        return asdict(self)


def measure_behaviour(originals: Sequence[Image.Image], decoded: Sequence[Image.Image]) -> Behaviour:
    """RGB photos and what a VAE made of them, in the same sizes, each side of at least 11 pixels."""
    pairs = list(zip(originals, decoded, strict=True))
    before, after = (np.concatenate([_colours(one) for one in pictures]) for pictures in (originals, decoded))
    contrast, _ = _line(before[:, :1], after[:, :1])
    saturation, grey = _line(before[:, 1:], after[:, 1:])
    return Behaviour(
        psnr=float(np.mean([min(psnr(*pair), 100.0) for pair in pairs])),
        ssim=float(np.mean([ssim(*pair) for pair in pairs])),
        contrast=contrast,
        saturation=saturation,
        green_magenta=float(grey[0]),
        blue_yellow=float(grey[1]),
        blotches=sum(len(find_new_blotches(*pair)) for pair in pairs),
    )


def _colours(picture: Image.Image) -> Lab:
    """L*a*b* of the squares of a picture, [squares, 3]."""
    from skimage.color import rgb2lab

    width, height = (max(1, side // BLOCK) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(rgb2lab(np.asarray(small)), np.float64).reshape(-1, 3)


def _line(before: Lab, after: Lab) -> tuple[float | None, Lab]:
    """One slope for all columns, and what each column's 0 becomes; no slope where the columns hardly vary."""
    first, second = before.mean(axis=0), after.mean(axis=0)
    power = float(np.mean(np.square(before - first)))
    slope = float(np.mean((before - first) * (after - second))) / power if power >= 1 else None
    return slope, second - (1.0 if slope is None else slope) * first


def check_behaviour(behaviour: Behaviour) -> list[Finding]:
    """What of it is a fault; one that loses the picture has no other."""
    if behaviour.ssim < LOST:
        what = f"what it decodes is not what it encoded: SSIM {behaviour.ssim:.2f}, {behaviour.psnr:.1f} dB"
        advice = "get the file anew; encoder and decoder may be of two families, or the weights damaged"
        return [Finding("not-the-picture", what, "the sample photos", "certain", advice)]
    return [*_cast(behaviour), *_paleness(behaviour), *_blotches(behaviour)]


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


def _blotches(behaviour: Behaviour) -> Iterator[Finding]:
    if behaviour.blotches:
        what = f"makes purple blotches: {behaviour.blotches} on the sample photos"
        advice = "take another VAE of the same family; for SD 1.x, ft-EMA and ft-MSE were made without them"
        yield Finding("purple-blotches", what, "the sample photos", "likely", advice)

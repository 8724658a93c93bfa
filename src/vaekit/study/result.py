"""What an experiment found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vaekit.quality.metrics import Quality, measure

COLUMNS = ("picture", "experiment", "variant", "value", "psnr", "ssim", "ciede2000", "bits_per_pixel")
"""Of the CSV."""


@dataclass(frozen=True)
class Finding:
    """One line of the results.

    variant: what was done, in words; value: the same as a number (bits, noise,
    pixels). quality: against the picture itself, where there is one to measure.
    bits_per_pixel: of pixels, where something was counted. picture: what came out.
    """

    picture: str
    experiment: str
    variant: str
    value: float | None = None
    quality: Quality | None = None
    bits_per_pixel: float | None = None
    result: Image.Image | None = field(default=None, repr=False)

    @staticmethod
    def of(
        name: str, experiment: str, variant: str, original: Image.Image, result: Image.Image, **more: Any
    ) -> Finding:
        """With the quality measured."""
        return Finding(name, experiment, variant, quality=measure(original, result), result=result, **more)

    def row(self) -> list[object]:
        """For the CSV, in the order of COLUMNS."""
        found = self.quality
        measures = [None] * 3 if found is None else [_finite(found.psnr), found.ssim, found.ciede2000]
        numbers = [self.value, *measures, self.bits_per_pixel]
        return [self.picture, self.experiment, self.variant, *("" if n is None else f"{n:.6g}" for n in numbers)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        quality = None if self.quality is None else self.quality.to_dict()
        return {
            "picture": self.picture,
            "experiment": self.experiment,
            "variant": self.variant,
            "value": self.value,
            "quality": quality,
            "bits_per_pixel": self.bits_per_pixel,
        }


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value

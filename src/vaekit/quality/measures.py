"""What is told of a reconstruction: how close it is, and how it looks beside the original.

Everything about how it looks is a comparison of a result with its reference (the
original picture), over all pixels, in CIE L*a*b* (white D65, 2° observer) of
their 8-bit sRGB values. Shifts are result minus reference. Gains are the factor
that least squares puts between reference and result, so noise that a VAE adds
raises none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vaekit.quality import metrics
from vaekit.quality.metrics import Picture
from vaekit.quality.perceptual import lpips

if TYPE_CHECKING:
    from vaekit.latents import Latents

Values = NDArray[np.float64]

BITS = 16
"""Of one number of the latents as samplers mostly hold them, in half precision."""


@dataclass(frozen=True)
class Measures:
    """One result against its reference; MEASURES says of each what it is. psnr is inf for equal pictures.

    None: the picture is too small (ssim, ms_ssim, lpips) or has nothing to keep
    (no contrast, no colour, no edges), or LPIPS is not on this disk.
    """

    psnr: float
    ssim: float | None
    ms_ssim: float | None
    ciede2000: float
    lpips: float | None
    brightness: float
    contrast: float | None
    saturation: float | None
    green_magenta: float
    blue_yellow: float
    edges: float | None

    def to_dict(self) -> dict[str, float | bool | None]:
        """For JSON; see for_json."""
        return for_json(asdict(self))


@dataclass(frozen=True)
class Measure:
    """What a number means. hint: a word or two on how to read it. told: one line with sign and reference.
    best: where the best value lies."""

    key: str
    title: str
    hint: str
    told: str
    best: Literal["high", "low", "one", "zero"]
    digits: int = 2

    def text(self, value: float | None) -> str:
        """The number as people read it; signed where the sign is what matters."""
        if value is None:
            return "–"
        if math.isinf(value):
            return "∞"
        value = round(value, self.digits) + 0.0  # no minus before zero
        sign = "+" if self.best == "zero" and value else ""
        return f"{value:{sign}.{self.digits}f}".replace("-", "\N{MINUS SIGN}")

    def badness(self, value: float | None) -> float:
        """Lower is better; equal where the texts are equal, so that rounding decides no contest."""
        if value is None:
            return math.inf
        value = round(value, self.digits) if math.isfinite(value) else value
        return {"high": -value, "low": value, "one": abs(value - 1), "zero": abs(value)}[self.best]


MEASURES = (
    Measure(
        "psnr",
        "PSNR dB",
        "higher is closer",
        "peak signal-to-noise ratio of the 8-bit values, in dB; 6 more is half the error",
        "high",
    ),
    Measure("ssim", "SSIM", "1 is equal", "whether local structure is the same, in windows of 11 pixels", "high", 4),
    Measure("ms_ssim", "MS-SSIM", "1 is equal", "SSIM over five scales, from 176 pixels up", "high", 4),
    Measure(
        "ciede2000",
        "CIEDE2000",
        "0 is equal",
        "mean colour difference as the eye sees it; about 2 is just noticeable",
        "low",
    ),
    Measure("lpips", "LPIPS", "0 is equal", "distance in the features of a network (AlexNet, version 0.1)", "low", 4),
    Measure(
        "brightness",
        "brightness",
        "+ is brighter",
        "mean L* of the result minus that of the reference; + is brighter, − darker; black to white is 100",
        "zero",
    ),
    Measure(
        "contrast",
        "contrast",
        "under 1 is flatter",
        "gain of L* about its mean, result over reference; 1 is kept, less is flatter, more is harder",
        "one",
    ),
    Measure(
        "saturation",
        "saturation",
        "under 1 is duller",
        "gain of (a*, b*) about neutral grey, result over reference; 1 is kept, less is paler colour",
        "one",
    ),
    Measure(
        "green_magenta",
        "green–magenta",
        "− green, + magenta",
        "mean a* of the result minus that of the reference; − is greener than the reference, + more magenta",
        "zero",
    ),
    Measure(
        "blue_yellow",
        "blue–yellow",
        "− blue, + yellow",
        "mean b* of the result minus that of the reference; − is bluer than the reference, + yellower",
        "zero",
    ),
    Measure(
        "edges",
        "edges kept",
        "under 1 is softer",
        "gain of the gradient of L* (Sobel), result over reference; 1 is kept, less is softer, more is sharper",
        "one",
    ),
    Measure(
        "bits_per_pixel", "bits/pixel", "of the latents", f"{BITS} bits a number; the picture itself has 24", "low"
    ),
    Measure(
        "encode_seconds", "encode s", "one run", "seconds on this machine, the first picture's with warming up", "low"
    ),
    Measure(
        "decode_seconds", "decode s", "one run", "seconds on this machine, the first picture's with warming up", "low"
    ),
)
"""Every number that a comparison tells, in the order of its tables."""


def measure_all(reference: Picture, result: Picture) -> Measures:
    """Everything about a result beside its reference. Raises PictureError where the two sizes differ."""
    quality = metrics.measure(reference, result)
    original, decoded = _pixels(reference), _pixels(result)
    large = min(original.shape[:2]) >= metrics.MS_SSIM_SIDE
    shift, gains = _look(_lab(original), _lab(decoded))
    return Measures(
        psnr=quality.psnr,
        ssim=quality.ssim,
        ms_ssim=metrics.ms_ssim(original, decoded) if large else None,
        ciede2000=quality.ciede2000,
        lpips=lpips(original, decoded),
        brightness=float(shift[0]),
        contrast=gains[0],
        saturation=gains[1],
        green_magenta=float(shift[1]),
        blue_yellow=float(shift[2]),
        edges=gains[2],
    )


def _look(reference: Values, result: Values) -> tuple[Values, list[float | None]]:
    """Of two pictures [H, W, 3] in L*a*b*: how far the mean went, and the gains of contrast, colour and edges."""
    before, after = reference.mean(axis=(0, 1)), result.mean(axis=(0, 1))
    light, light_after = reference[..., 0], result[..., 0]
    gains = [
        _gain(light - before[0], light_after - after[0], least=1.0),
        _gain(reference[..., 1:], result[..., 1:], least=1.0),
        _gain(_gradient(light), _gradient(light_after), least=0.1),
    ]
    return after - before, gains


def _gain(reference: Values, result: Values, *, least: float) -> float | None:
    """The factor of least squares from reference to result; None where the reference's rms is under `least`."""
    power = float(np.mean(np.square(reference)))
    return float(np.mean(reference * result)) / power if power >= least**2 else None


def _gradient(light: Values) -> Values:
    """How strong the edge is at each pixel, wherever it points."""
    from skimage.filters import sobel

    return np.asarray(sobel(light), np.float64)  # type: ignore[no-untyped-call]


def _lab(pixels: NDArray[np.uint8]) -> Values:
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(pixels), np.float64)


def _pixels(picture: Picture) -> NDArray[np.uint8]:
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture.convert("RGB"))


def bits_per_pixel(latents: Latents) -> float:
    """How many bits the latents take for each pixel of their pictures, at 16 bits a number."""
    width, height = latents.size
    return latents.tensor[0].numel() * BITS / (width * height)


def for_json(row: Mapping[str, float | None]) -> dict[str, float | bool | None]:
    """JSON has no infinity: psnr is None for equal pictures, and `identical` says so."""
    psnr = row["psnr"]
    identical = psnr is not None and math.isinf(psnr)
    return {**row, "psnr": None if identical else psnr, "identical": identical}


def mean(rows: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Over the rows that have a measure: small pictures have no SSIM, equal ones no finite PSNR (all equal: inf)."""
    rows = list(rows)
    return {measure.key: _mean([row.get(measure.key) for row in rows]) for measure in MEASURES}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)] or known
    return sum(finite) / len(finite) if finite else None


NOTICED = {"brightness": 1.0, "contrast": 0.03, "saturation": 0.03, "green_magenta": 1.0, "blue_yellow": 1.0}
NOTICED["edges"] = 0.1
"""From how far off a measure is put into words: L*a*b* units, and parts of 1 for the gains."""

_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "more contrast"),
    "saturation": ("less saturated", "more saturated"),
    "green_magenta": ("greener", "more magenta"),
    "blue_yellow": ("bluer", "yellower"),
    "edges": ("softer", "sharper"),
}


def in_words(values: Mapping[str, float | None]) -> str:
    """How a result looks beside its reference: "flatter, less saturated"."""
    said = []
    for measure in MEASURES:
        value = values.get(measure.key)
        if measure.key in _WORDS and value is not None:
            off = value - 1 if measure.best == "one" else value
            if abs(off) >= NOTICED[measure.key]:
                said.append(_WORDS[measure.key][off > 0])
    return ", ".join(said) or "no change of look"

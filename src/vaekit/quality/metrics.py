"""Measures between two pictures of the same size: PSNR, SSIM, MS-SSIM, CIEDE2000.

Every function takes PIL pictures or uint8 arrays [H, W, 3] in sRGB. PIL
pictures of other modes are turned into RGB first; transparency is not measured.
All raise PictureError when the two sizes differ or an array is of another kind.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaekit.errors import PictureError

Picture = Image.Image | NDArray[np.uint8]

SSIM_WINDOW = 11
"""Pixels: the side of SSIM's Gaussian window, sigma 1.5 cut at 3.5 sigma."""

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of MS-SSIM's scales, the full size first; each is half the size of the one before."""

MS_SSIM_SIDE = SSIM_WINDOW << (len(MS_SSIM_WEIGHTS) - 1)
"""Pixels: the smallest side whose last scale still holds SSIM's window, 176."""

_NO_LUMINANCE = 1e6
"""As SSIM's constant K1, it makes the luminance term 1: contrast and structure are left."""


@dataclass(frozen=True)
class Quality:
    """What `measure` found. psnr in dB, inf for equal pictures; ssim None where a side is under 11 pixels."""

    psnr: float
    ssim: float | None
    ciede2000: float

    def to_dict(self) -> dict[str, float | bool | None]:
        """For JSON, which has no infinity: psnr is None for equal pictures, and `identical` says so."""
        identical = math.isinf(self.psnr)
        return {**asdict(self), "psnr": None if identical else self.psnr, "identical": identical}


def measure(original: Picture, result: Picture) -> Quality:
    """All measures of a result against its original."""
    a, b = _pair(original, result)
    small = min(a.shape[:2]) < SSIM_WINDOW
    return Quality(psnr=psnr(a, b), ssim=None if small else ssim(a, b), ciede2000=ciede2000(a, b))


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio over the 8-bit values of all three channels, in dB; inf for equal pictures."""
    a, b = _pair(a, b)
    error = float(np.mean(np.square(a.astype(np.float64) - b)))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity, mean over pixels and the three channels, 1 for equal pictures.

    With the Gaussian window of the paper. Raises PictureError also for
    pictures smaller than that window, 11 pixels.
    Source: Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment".
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(a, b)
    height, width = a.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise PictureError(f"SSIM needs pictures of at least {SSIM_WINDOW}×{SSIM_WINDOW}, not {width}×{height}")
    score = structural_similarity(  # type: ignore[no-untyped-call]
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=255
    )
    return float(score)


def ms_ssim(a: Picture, b: Picture) -> float:
    """SSIM over five scales, mean over the three channels on each, 1 for equal pictures.

    Contrast and structure count on every scale, luminance on the smallest; a
    negative scale counts as 0. Raises PictureError for pictures under 176 pixels.
    Source: Wang, Simoncelli, Bovik 2003, "Multiscale structural similarity".
    """
    from skimage.metrics import structural_similarity

    first, second = _pair(a, b)
    height, width = first.shape[:2]
    if min(height, width) < MS_SSIM_SIDE:
        raise PictureError(f"MS-SSIM needs pictures of at least {MS_SSIM_SIDE}×{MS_SSIM_SIDE}, not {width}×{height}")
    x, y = first.astype(np.float64), second.astype(np.float64)
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS, 1):
        score = structural_similarity(  # type: ignore[no-untyped-call]
            x,
            y,
            K1=0.01 if scale == len(MS_SSIM_WEIGHTS) else _NO_LUMINANCE,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2,
            data_range=255,
        )
        product *= max(0.0, float(score)) ** weight
        x, y = _halved(x), _halved(y)
    return product


def _halved(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of 2×2 pixels; an odd last row or column is left out."""
    height, width, channels = pixels.shape
    even = pixels[: height // 2 * 2, : width // 2 * 2]
    return even.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


def ciede2000(a: Picture, b: Picture) -> float:
    """Mean colour difference as the eye sees it; 0 for equal pictures, about 2 is just noticeable.

    Source: Sharma, Wu, Dalal 2005, "The CIEDE2000 color-difference formula".
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    a, b = _pair(a, b)
    return float(np.mean(deltaE_ciede2000(rgb2lab(a), rgb2lab(b))))  # type: ignore[no-untyped-call]


def _pair(a: Picture, b: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    first, second = _array(a), _array(b)
    if first.shape != second.shape:
        raise PictureError(f"pictures of different sizes cannot be compared: {_size(first)} and {_size(second)}")
    return first, second


def _array(picture: Picture) -> NDArray[np.uint8]:
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise PictureError(
            f"a picture to measure is a uint8 array [height, width, 3], not {picture.dtype} {list(picture.shape)}"
        )
    return picture


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"

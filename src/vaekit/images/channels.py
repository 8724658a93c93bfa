"""A decoded PIL picture, of any mode and depth, as Pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vaekit.errors import PictureError
from vaekit.images.colour import grey_curve, to_srgb
from vaekit.images.pictures import Pictures, from_levels


def from_decoded(image: Image.Image, name: str, notes: list[str]) -> Pictures:
    """Colours to sRGB, transparency to alpha. Raises PictureError for 32-bit grey of unknown range."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)  # Pillow's own conversion would clip it at 255
        white = _white_of_wide_grey(values, image.mode, name, notes)
        return _from_grey(values, white, _alpha_of_key(values, image.info.get("transparency")), profile, notes)
    colour, alpha = _split(image)
    if colour.mode == "L":
        return _from_grey(np.asarray(colour), 255, alpha, profile, notes)
    rgb = np.asarray(to_srgb(colour, profile, notes))
    return from_levels(np.moveaxis(rgb, -1, 0)[None], 255, alpha, notes)


def _split(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """The colours as L, RGB, CMYK or LAB, and the alpha [1, 1, H, W] where there is any."""
    if image.mode in ("CMYK", "LAB"):
        return image, None
    base = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image.convert(base), None
    both = image.convert("LA" if base == "L" else "RGBA")
    return both.convert(base), np.asarray(both.getchannel("A"))[None, None]


def _from_grey(values: np.ndarray, white: int, alpha: np.ndarray | None, profile: object, notes: list[str]) -> Pictures:
    """values: [H, W], 0 to `white`, of any depth, which is kept."""
    curve = grey_curve(profile, notes)
    if curve is None:
        return from_levels(values[None, None], white, alpha, notes)
    if values.dtype == np.uint8:
        return from_levels(curve.T[:, values][None], 255, alpha, notes)
    levels = values * (255 / white)
    channels = np.stack([np.interp(levels, np.arange(256), channel) for channel in curve.T])[None]
    return from_levels(channels, 255, alpha, notes)


def _alpha_of_key(values: np.ndarray, key: object) -> np.ndarray | None:
    return np.where(values == key, 0, 255).astype(np.uint8)[None, None] if isinstance(key, int) else None


def _white_of_wide_grey(values: np.ndarray, mode: str, name: str, notes: list[str]) -> int:
    """The value that is white. Nothing in a 32-bit picture says it, so its range decides, and that is told."""
    if mode.startswith("I;16"):
        return 65535
    low, high = float(values.min()), float(values.max())
    for white in (255, 65535) if mode == "I" else (1, 255):
        if low >= 0 and high <= white:
            notes.append(f"32-bit grey from {low:g} to {high:g}, read with {white} as white")
            return white
    raise PictureError(
        f"{name}: 32-bit grey from {low:g} to {high:g}; bring it to 0..65535 (integers) or 0..1 (floats) first"
    )

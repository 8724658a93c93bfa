"""Colour profiles: any colours to sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from vaekit.images.wording import one_line

# Two levels of 255: what two writers of the same sRGB profile may differ by.
SAME_COLOUR = 2


def to_srgb(colour: Image.Image, profile: object, notes: list[str]) -> Image.Image:
    """`colour` (RGB, CMYK, LAB, or a grey ramp) as RGB; what was done, or could not be, is added to `notes`.

    profile: what a file gave as its ICC profile; None, or anything at all.
    """
    if profile and colour.mode != "LAB":
        try:
            return _through_profile(colour, profile, notes)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            notes.append(f"its colour profile cannot be used ({one_line(error)}); colours left as they are")
    if colour.mode == "CMYK":
        notes.append("CMYK without a usable profile converted by the plain formula")
    return colour.convert("RGB")


def grey_curve(profile: object, notes: list[str]) -> np.ndarray | None:
    """The sRGB colours uint8 [256, 3] that the grey levels 0 to 255 stand for; None where they stand for themselves."""
    ramp = _grey_ramp()
    curve = np.asarray(to_srgb(ramp, profile, notes))[0]
    return None if np.array_equal(curve, np.asarray(ramp.convert("RGB"))[0]) else curve


def _through_profile(colour: Image.Image, data: object, notes: list[str]) -> Image.Image:
    if not isinstance(data, bytes):
        raise TypeError("it is not made of bytes")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    if colour.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
        colour = colour.convert("RGB")
    transform = _transform(profile, colour.mode)
    # Most pictures carry sRGB itself, under many names: those keep their very values.
    if colour.mode != "CMYK" and _changes_nothing(transform, colour.mode):
        return colour.convert("RGB")
    told = f"'{one_line(ImageCms.getProfileDescription(profile))}' converted to sRGB"
    converted = transform.apply(colour)
    notes.append(f"CMYK with profile {told}" if colour.mode == "CMYK" else f"colour profile {told}")
    return converted


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":  # the shortcuts of LittleCMS cost up to ten levels in dark grey, and 256 levels need none
        flags |= ImageCms.Flags.NOOPTIMIZE
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    probe = _grey_ramp() if mode == "L" else _colour_grid()
    before, after = (np.asarray(image, np.int16) for image in (probe.convert("RGB"), transform.apply(probe)))
    return bool(np.abs(after - before).max() <= SAME_COLOUR)


def _grey_ramp() -> Image.Image:
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def _colour_grid() -> Image.Image:
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))

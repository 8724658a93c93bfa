"""Reading: whatever a picture comes as, to Pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from PIL import Image, ImageColor
from torch import Tensor

from vaekit.errors import OptionError, PictureError
from vaekit.images.arrays import from_array, from_tensor
from vaekit.images.opening import DEFAULT_MAX_PIXELS, from_file, from_image
from vaekit.images.pictures import Pictures, join, lay_over
from vaekit.images.wording import printable

PictureSource = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


def read(
    source: PictureSource | Sequence[PictureSource], *, alpha: str = "keep", max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pictures:
    """Read a picture, or several of one size, whatever they come as.

    source: a path; a PIL picture; a numpy array [H, W], [H, W, C] or [B, H, W, C]
    with C of 1 to 4 (grey or RGB, then perhaps alpha), uint8, uint16, or float in
    [0, 1]; a tensor [3, H, W] or [B, 3, H, W], float in [-1, 1] or uint8; or a
    list or tuple of these. alpha: "keep" leaves the colours as they are and puts
    transparency aside; anything else is a colour ("white", "#ff8800") that
    transparent pictures are laid over, in sRGB. max_pixels: larger files and PIL
    pictures are refused before they are decoded.

    Colours come out as sRGB. Safe to call from several threads. Pillow keeps its
    limit on pixels in a global, which holds max_pixels while a file is decoded,
    and then again what it held before.

    Raises PictureError (no such file, not a picture, damaged, too large, out of
    range, sizes that differ) and OptionError (alpha, max_pixels).
    """
    background = None if alpha == "keep" else _parse_colour(alpha)
    if max_pixels < 1:
        raise OptionError(f"max_pixels is a number of pixels from 1 up, not {max_pixels}")
    sources: list[PictureSource] = list(source) if isinstance(source, list | tuple) else [cast(PictureSource, source)]
    if not sources:
        raise PictureError("no picture was given: the list is empty")
    parts: list[Pictures] = []
    names = [_name(one, number if len(sources) > 1 else None) for number, one in enumerate(sources, 1)]
    for one, name in zip(sources, names, strict=True):
        part = _read_one(one, name, max_pixels)
        _check_same_size(parts[0] if parts else part, names[0], part, name)
        parts.append(_kept_aside(part) if background is None else lay_over(part, background, alpha))
    return parts[0] if len(parts) == 1 else join(parts, names)


def _parse_colour(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue, *opacity = ImageColor.getrgb(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise OptionError(
            f"alpha is 'keep' or a colour to lay transparent pictures over ('white', '#ff8800'), not {text!r}"
        ) from error
    if opacity and opacity[0] < 255:
        raise OptionError(f"the colour to lay transparent pictures over must be opaque itself; {text!r} is not")
    return red, green, blue


def _name(source: object, number: int | None) -> str:
    if isinstance(source, str | os.PathLike):
        return printable(str(source))
    return "the picture" if number is None else f"picture {number}"


def _read_one(source: PictureSource, name: str, max_pixels: int) -> Pictures:
    if isinstance(source, str | os.PathLike):
        return from_file(os.fspath(source), name, max_pixels)
    if isinstance(source, Image.Image):
        return from_image(source, name, max_pixels)
    if isinstance(source, np.ndarray):
        return from_array(source, name)
    if isinstance(source, Tensor):
        return from_tensor(source, name)
    raise PictureError(
        f"{name}: a picture is a path, a PIL picture, a numpy array, a tensor, or a list of these, "
        f"not {type(source).__name__}"
    )


def _check_same_size(first: Pictures, first_name: str, other: Pictures, other_name: str) -> None:
    if first.size != other.size:
        raise PictureError(
            f"pictures read together must have one size: {first_name} is {first.size[0]}×{first.size[1]}, "
            f"{other_name} is {other.size[0]}×{other.size[1]}; read them one by one"
        )


def _kept_aside(part: Pictures) -> Pictures:
    return part if part.alpha is None else replace(part, notes=(*part.notes, "transparency kept aside"))

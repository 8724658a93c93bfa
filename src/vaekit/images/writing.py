"""Tensors back to PIL pictures, and those to files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vaekit.errors import NumericsError, OutputError, PictureError
from vaekit.files import atomic_write
from vaekit.images.canvas import to_levels
from vaekit.images.telling import text_options
from vaekit.images.wording import one_line

log = logging.getLogger("vaekit")


def to_pil(pixels: Tensor, alpha: Tensor | None = None) -> list[Image.Image]:
    """8-bit pictures, rounded to the nearest level; values beyond [-1, 1] are clamped.

    pixels: float [B, 3, H, W] in [-1, 1]. alpha: uint8 [B, 1, H, W]; with it the
    pictures are RGBA, else RGB. Raises PictureError where the shapes do not fit,
    NumericsError for NaN.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise PictureError(f"pictures are float [B, 3, H, W] in [-1, 1], not {pixels.dtype} {list(pixels.shape)}")
    if bool(pixels.isnan().any()):
        raise NumericsError("NaN where a picture should be; nothing can be shown")
    levels = to_levels(pixels.detach()).cpu()
    if alpha is not None:
        if alpha.shape != (levels.shape[0], 1, *levels.shape[2:]) or alpha.dtype != torch.uint8:
            raise PictureError(f"alpha {alpha.dtype} {list(alpha.shape)} does not fit pictures {list(pixels.shape)}")
        levels = torch.cat([levels, alpha.cpu()], dim=1)
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in levels]


@dataclass(frozen=True)
class _Target:
    format: str
    alpha: bool = True
    options: dict[str, Any] = field(default_factory=dict)


_JPEG = _Target("JPEG", alpha=False, options={"quality": 95, "subsampling": "4:4:4"})
_TIFF = _Target("TIFF", options={"compression": "tiff_adobe_deflate"})
_TARGETS = {
    ".png": _Target("PNG"),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _Target("WEBP", options={"quality": 95}),
    ".avif": _Target("AVIF", options={"quality": 90, "subsampling": "4:4:4"}),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _Target("BMP", alpha=False),
}


def _with_text(target: _Target, text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    options = text_options(target.format, text)
    if not options:
        log.warning("%s: %s has no place for the settings; PNG, JPEG, WebP and AVIF have", path, target.format)
    return options


def check_format(path: Path, *, alpha: bool = False) -> None:
    """Raise OutputError now if `write` could not use this suffix later; call it before the expensive part."""
    _target(path, alpha)


def _target(path: Path, alpha: bool) -> _Target:
    target = _TARGETS.get(path.suffix.lower())
    if target is None:
        raise OutputError(f"{path}: unknown kind of picture {path.suffix!r}; usable are {', '.join(_TARGETS)}")
    if alpha and not target.alpha:
        usable = ", ".join(suffix for suffix, other in _TARGETS.items() if other.alpha)
        raise OutputError(f"{path}: {target.format} cannot hold transparency; usable are {usable}")
    return target


def write(
    picture: Image.Image, path: Path, *, force: bool = False, text: str | None = None, lasting: bool = True
) -> None:
    """Write a picture in the format that the suffix of `path` names; whole or not at all.

    text: what the file is to tell of how it was made, as A1111 stores it; formats
    without a place for it (TIFF, BMP) go without, which is told. lasting: as for
    `files.atomic_write`.

    Raises OutputError: unknown suffix, transparency into a format without it, a
    file that exists (unless `force`), no permission, disk full.
    """
    target = _target(path, picture.has_transparency_data)
    with atomic_write(path, force=force, lasting=lasting) as part:
        try:
            picture.save(part, format=target.format, **target.options, **_with_text(target, text, path))
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: {target.format} cannot hold this picture ({one_line(error)})") from error

"""The picture and the mask of img2img, brought to the size that is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn import functional as F

from vaekit import images
from vaekit.errors import OptionError, PictureError
from vaekit.generate.settings import LONGEST, Change, Resize


@dataclass(frozen=True)
class Frame:
    """A picture and its mask, and the box (left, top, right, bottom) of it that is drawn."""

    picture: Image.Image
    mask: Image.Image
    box: tuple[int, int, int, int]

    def with_inside(self, drawn: Image.Image) -> Image.Image:
        """The picture with what was drawn, brought to the size of the box, where the mask is white."""
        left, top, right, bottom = self.box
        laid = self.picture.convert("RGB")
        laid.paste(drawn.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return Image.composite(laid, self.picture.convert("RGB"), self.mask)


@dataclass(frozen=True)
class Subject:
    """What img2img begins with.

    mask: 8-bit grey, white where it is drawn anew, its edge blurred. filled: the
    picture with something else under the mask, which is what is encoded. frame:
    where the picture was cut out of.
    """

    picture: Image.Image
    mask: Image.Image | None = None
    filled: Image.Image | None = None
    frame: Frame | None = None

    def cells(self, downscale: int) -> Tensor | None:
        """The mask for the cells of the latents, [1, 1, h, w], 1 where more than half of a cell is drawn anew."""
        if self.mask is None:
            return None
        grey = torch.from_numpy(np.asarray(self.mask, np.float32) / 255)[None, None]
        return F.avg_pool2d(images.pad(grey, downscale), downscale).ge(0.5).float()

    def hidden(self) -> Tensor:
        """The picture with middle grey where it is drawn anew (all over, without a mask), [1, 3, H, W] in [-1, 1]."""
        pixels = images.read(self.picture.convert("RGB")).pixels
        if self.mask is None:
            return torch.zeros_like(pixels)
        shown = torch.from_numpy(np.asarray(self.mask, np.uint8) < 128)
        return pixels * shown

    def merged(self, drawn: Image.Image) -> Image.Image:
        """What was drawn where the mask is white, the picture itself where it is black, a mixture on the edge."""
        if self.mask is None:
            return drawn
        if self.frame is not None:
            return self.frame.with_inside(drawn)
        return Image.composite(drawn, self.picture, self.mask)


def prepare(change: Change, size: tuple[int, int] | None) -> Subject:
    """Read picture and mask and bring them to `size` (None: the picture's own).

    Raises PictureError (cannot be read, too large to draw, a mask of another size), OptionError.
    """
    read = images.read(change.picture, alpha=change.alpha)
    picture = images.to_pil(read.pixels)[0]
    mask = None
    if change.mask is not None:
        mask = images.to_pil(images.read(change.mask, alpha="black").pixels)[0].convert("L")
        if mask.size != picture.size:
            raise PictureError(
                f"{change.mask}: the mask is {mask.width}×{mask.height}, the picture {picture.width}×{picture.height}; "
                "they have to be of one size"
            )
    if size is None and max(picture.size) > LONGEST:
        raise PictureError(f"{change.picture}: {picture.width}×{picture.height} is too large to draw; give a --size")
    if mask is not None and change.invert:
        mask = ImageOps.invert(mask)
    if mask is not None and change.area == "masked":
        return _filled(_inside(picture, _blurred(mask, change.blur), size or picture.size, change.margin), change)
    if size is not None and size != picture.size:
        picture = _resized(picture, size, change.resize)
        mask = None if mask is None else _resized(mask, size, change.resize)
    return _filled(Subject(picture, None if mask is None else _blurred(mask, change.blur)), change)


def _blurred(mask: Image.Image, radius: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def _inside(picture: Image.Image, mask: Image.Image, size: tuple[int, int], margin: int) -> Subject:
    """The part of a picture around the mask, in the shape of `size`, enlarged to it. Raises OptionError."""
    masked = mask.getbbox()
    if masked is None:
        raise OptionError("the mask is black all over: nothing is to be drawn anew")
    box = _shaped(masked, size, margin, picture.size)
    part, of_mask = (one.crop(box).resize(size, Image.Resampling.LANCZOS) for one in (picture, mask))
    return Subject(part, of_mask, frame=Frame(picture, mask, box))


def _shaped(
    masked: tuple[int, int, int, int], size: tuple[int, int], margin: int, within: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box around another with a margin, in the proportions of `size` as far as the picture reaches."""
    spans = []
    for low, high, most in ((masked[0], masked[2], within[0]), (masked[1], masked[3], within[1])):
        spans.append((max(0, low - margin), min(most, high + margin)))
    lengths = [high - low for low, high in spans]
    wanted = (lengths[1] * size[0] / size[1], lengths[0] * size[1] / size[0])
    grown = []
    for (low, _), length, wish, most in zip(spans, lengths, wanted, within, strict=True):
        longer = min(most, max(length, round(wish)))
        start = min(max(0, low - (longer - length) // 2), most - longer)
        grown.append((start, start + longer))
    return grown[0][0], grown[1][0], grown[0][1], grown[1][1]


def _filled(subject: Subject, change: Change) -> Subject:
    if change.fill != "surroundings" or subject.mask is None:
        return subject
    return replace(subject, filled=surroundings(subject.picture, subject.mask))


def surroundings(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours of what is around the mask carried into it.

    By pull-push interpolation (Gortler et al. 1996, "The Lumigraph", section 3.4):
    what is known is averaged into ever smaller pictures, and flows back from them.
    """
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32).copy()).permute(2, 0, 1)[None]
    known = 1 - torch.from_numpy(np.asarray(mask.convert("L"), np.float32) / 255)[None, None]
    found = _pulled(pixels * known, known)[0].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8)
    return Image.fromarray(found.numpy())


def _pulled(sums: Tensor, weight: Tensor) -> Tensor:
    """Colours everywhere. sums: [1, 3, H, W], colour times weight; weight: [1, 1, H, W], 1 where a colour is known."""
    if max(weight.shape[2:]) == 1:
        return sums / weight.clamp_min(1e-6)
    pooled = F.avg_pool2d(torch.cat([sums, weight], 1), 2, ceil_mode=True, count_include_pad=False)
    heavier = (4 * pooled[:, 3:]).clamp(max=1) / pooled[:, 3:].clamp_min(1e-6)
    coarse = _pulled(pooled[:, :3] * heavier, pooled[:, 3:] * heavier)
    return sums + (1 - weight) * F.interpolate(coarse, size=tuple(weight.shape[2:]), mode="bilinear")


def _resized(picture: Image.Image, size: tuple[int, int], how: Resize) -> Image.Image:
    if how == "stretch":
        return picture.resize(size, Image.Resampling.LANCZOS)
    if how == "crop":
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    inside = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
    left, top = (size[0] - inside.width) // 2, (size[1] - inside.height) // 2
    sides = ((top, size[1] - inside.height - top), (left, size[0] - inside.width - left))
    pixels = np.asarray(inside)
    return Image.fromarray(np.pad(pixels, sides if pixels.ndim == 2 else (*sides, (0, 0)), mode="edge"))

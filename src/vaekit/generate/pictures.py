"""The picture and the mask of img2img, brought to the size that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn import functional as F

from vaekit import images
from vaekit.errors import PictureError
from vaekit.generate.settings import LONGEST, Change, Resize


@dataclass(frozen=True)
class Subject:
    """What img2img begins with. mask: 8-bit grey, white where it is drawn anew, its edge blurred."""

    picture: Image.Image
    mask: Image.Image | None = None

    def cells(self, downscale: int) -> Tensor | None:
        """The mask for the cells of the latents, [1, 1, h, w], 1 where more than half of a cell is drawn anew."""
        if self.mask is None:
            return None
        grey = torch.from_numpy(np.asarray(self.mask, np.float32) / 255)[None, None]
        return F.avg_pool2d(images.pad(grey, downscale), downscale).ge(0.5).float()

    def merged(self, drawn: Image.Image) -> Image.Image:
        """What was drawn where the mask is white, the picture itself where it is black, a mixture on the edge."""
        return drawn if self.mask is None else Image.composite(drawn, self.picture, self.mask)


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
    if size is not None and size != picture.size:
        picture = _resized(picture, size, change.resize)
        mask = None if mask is None else _resized(mask, size, change.resize)
    if mask is not None and change.blur:
        mask = mask.filter(ImageFilter.GaussianBlur(change.blur))
    return Subject(picture, mask)


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

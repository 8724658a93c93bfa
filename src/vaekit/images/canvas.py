"""Pictures put together from rows, in the memory of the finished picture and little more."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vaekit.errors import NumericsError, PictureError

Output = Literal["pil", "numpy", "tensor"]
BLOCK = 1 << 18
"""Numbers brought to levels at once."""
BLOCK_ON_GPU = 1 << 24
"""The same on a GPU, whose result each block waits for."""


def to_levels(rows: Tensor) -> Tensor:
    """[..., 3] float in [-1, 1] -> uint8, rounded to the nearest level; values beyond are clamped."""
    return rows.float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


class Canvas:
    """Takes decoded rows from top to bottom and gives the pictures, cropped to `size`.

    output: as of VAE.decode. size: (width, height). alpha: uint8 [B, 1, H, W],
    put into PIL pictures.
    """

    def __init__(self, output: Output, batch: int, size: tuple[int, int], alpha: Tensor | None = None):
        width, height = size
        self.size, self._output, self._alpha = size, output, alpha if output == "pil" else None
        self._pil: list[Image.Image] = []
        self._array: npt.NDArray[np.uint8] | None = None
        self._tensor: Tensor | None = None
        if alpha is not None and output == "pil" and alpha.shape != (batch, 1, height, width):
            raise PictureError(f"alpha {list(alpha.shape)} does not fit {batch} pictures of {width}×{height}")
        if output == "pil":
            self._pil = [Image.new("RGB" if alpha is None else "RGBA", size) for _ in range(batch)]
        elif output == "numpy":
            self._array = np.empty((batch, height, width, 3), np.uint8)
        else:
            self._tensor = torch.empty((batch, 3, height, width))

    @staticmethod
    def bytes(output: Output, batch: int, size: tuple[int, int]) -> int:
        """Memory of the finished pictures; Pillow keeps four bytes a pixel."""
        return batch * size[0] * size[1] * {"pil": 4, "numpy": 3, "tensor": 12}[output]

    def write(self, picture: int, first: int, rows: Tensor) -> None:
        """rows: [n, width or more, 3] in [-1, 1], from row `first` on; what lies outside of the size is left out."""
        width, height = self.size
        rows = rows[: max(0, height - first), :width]
        block = BLOCK if rows.device.type == "cpu" else BLOCK_ON_GPU
        at_once = max(1, block // (3 * width))
        for start in range(0, rows.shape[0], at_once):
            self._write(picture, first + start, rows[start : start + at_once])

    def _write(self, picture: int, first: int, rows: Tensor) -> None:
        if bool(rows.isnan().any()):
            raise NumericsError("NaN where a picture should be; nothing can be shown")
        last = first + rows.shape[0]
        if self._tensor is not None:
            self._tensor[picture, :, first:last] = rows.float().clamp(-1, 1).permute(2, 0, 1)
            return
        levels = to_levels(rows).cpu()
        if self._array is not None:
            self._array[picture, first:last] = levels.numpy()
            return
        if self._alpha is not None:
            levels = torch.cat([levels, self._alpha[picture, 0, first:last, :, None].cpu()], dim=2)
        self._pil[picture].paste(Image.fromarray(levels.contiguous().numpy()), (0, first))

    def finish(self) -> list[Image.Image] | npt.NDArray[np.uint8] | Tensor:
        """The pictures, once all rows are there."""
        if self._tensor is not None:
            return self._tensor
        return self._pil if self._array is None else self._array

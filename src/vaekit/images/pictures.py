"""What comes out of reading: pixels, perhaps alpha, and what was done to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pictures:
    """One or several pictures of one size, ready for an encoder.

    pixels: float32 [B, 3, H, W] in [-1, 1], on the CPU. alpha: uint8
    [B, 1, H, W] where there was real transparency that was kept aside. notes: one
    line for each thing done to them that the user should know.
    """

    pixels: Tensor
    alpha: Tensor | None
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[3], self.pixels.shape[2]


def from_levels(channels: np.ndarray, white: float, alpha: np.ndarray | None, notes: Iterable[str] = ()) -> Pictures:
    """channels: [B, 1 or 3, H, W], 0 to `white`; alpha: uint8 [B, 1, H, W]. Opaque alpha says nothing and goes."""
    batch, _, height, width = channels.shape
    pixels = np.empty((batch, 3, height, width), np.float32)
    np.divide(channels, white / 2, out=pixels, dtype=np.float32)
    pixels -= 1
    opaque = alpha is None or alpha.min() == 255
    return Pictures(torch.from_numpy(pixels), None if opaque else torch.tensor(alpha), tuple(notes))


def lay_over(part: Pictures, colour: tuple[int, int, int], told_as: str) -> Pictures:
    """`part` without its transparency: an 8-bit sRGB colour shines through where there was some."""
    if part.alpha is None:
        return part
    background = (torch.tensor(colour, dtype=torch.float32) / 127.5 - 1).view(1, 3, 1, 1)
    transparency = 1 - part.alpha.to(torch.float32) / 255
    pixels = part.pixels + (background - part.pixels) * transparency
    return Pictures(pixels, None, (*part.notes, f"transparency laid over {told_as}"))


def join(parts: list[Pictures], names: list[str]) -> Pictures:
    """Pictures of one size as one batch; each note is told with the name of its picture."""
    notes = tuple(f"{name}: {note}" for part, name in zip(parts, names, strict=True) for note in part.notes)
    pixels = torch.cat([part.pixels for part in parts])
    if all(part.alpha is None for part in parts):
        return Pictures(pixels, None, notes)
    return Pictures(pixels, torch.cat([_alpha_or_opaque(part) for part in parts]), notes)


def _alpha_or_opaque(part: Pictures) -> Tensor:
    return torch.full_like(part.pixels[:, :1], 255, dtype=torch.uint8) if part.alpha is None else part.alpha

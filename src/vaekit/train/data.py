"""Crops for training, from a folder of pictures held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vaekit import images
from vaekit.errors import PictureError


class Crops:
    """A folder of pictures, decoded once; crops are drawn by a generator that can be resumed."""

    def __init__(self, folder: Path):
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES)
        if not paths:
            raise PictureError(f"{folder}: no pictures here to train on")
        self.pictures = [images.to_pil(images.read(path, alpha="white").pixels)[0] for path in paths]

    def batch(self, count: int, side: int, zoom: tuple[float, float], rng: np.random.Generator) -> Tensor:
        """Random crops [count, 3, side, side] in [-1, 1], enlarged by any factor in `zoom`, flipped half the time."""
        picks = rng.integers(len(self.pictures), size=count)
        crops = np.stack([_crop(self.pictures[pick], side, zoom, rng) for pick in picks])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _crop(
    picture: Image.Image, side: int, zoom: tuple[float, float], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A square of the picture, as large as the zoom and the picture allow, resized to `side`."""
    low, high = np.log(zoom)
    taken = min(round(side / np.exp(rng.uniform(low, high))), *picture.size)
    left = int(rng.integers(picture.width - taken + 1))
    top = int(rng.integers(picture.height - taken + 1))
    box = (left, top, left + taken, top + taken)
    pixels = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels

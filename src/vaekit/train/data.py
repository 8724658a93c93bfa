"""Crops for training, from a folder of pictures held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit.errors import VaekitError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Pictures:
    """A folder of pictures, decoded once; crops are drawn by a generator that can be resumed."""

    def __init__(self, folder: Path, crop: int, zoom: tuple[float, float]):
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise VaekitError(f"{folder}: no pictures here to train on")
        self.crop = crop
        self.zoom = zoom
        self.pictures = [Image.open(path).convert("RGB") for path in paths]

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Random crops [size, 3, crop, crop] in [-1, 1]: any zoom in the range, flipped half the time."""
        picks = rng.integers(len(self.pictures), size=size)
        crops = np.stack([self._crop(self.pictures[pick], rng) for pick in picks])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _crop(self, picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
        low, high = np.log(self.zoom)
        shortest = min(picture.size)
        side = min(round(self.crop / np.exp(rng.uniform(low, high))), shortest)
        left = int(rng.integers(picture.width - side + 1))
        top = int(rng.integers(picture.height - side + 1))
        box = (left, top, left + side, top + side)
        pixels = np.asarray(picture.resize((self.crop, self.crop), Image.Resampling.BICUBIC, box=box))
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels

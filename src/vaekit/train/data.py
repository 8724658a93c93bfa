"""Crops for training, from folders of pictures held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vaekit import images
from vaekit.errors import FileError, PictureError


class Crops:
    """Folders of pictures, decoded once; crops are drawn by a generator that can be resumed.

    folders: each with how often it is drawn from, beside the others. Of each
    folder the first picture in a hundred (at least one of the first folder) is
    held out, to be looked at and measured while training runs.
    """

    def __init__(self, folders: Sequence[tuple[Path, float]], *, smallest: int = 1):
        """smallest: the side in pixels that pictures must have; raises PictureError, as for a folder without any."""
        self.folders: list[list[Image.Image]] = []
        self.held_out: list[Image.Image] = []
        for folder, _ in folders:
            pictures = [_open(path, smallest) for path in _find(folder)]
            held = min(len(pictures) - 1, max(len(pictures) // 100, 0 if self.folders else 1))
            self.held_out += pictures[:held]
            self.folders.append(pictures[held:])
        shares = np.array([share for _, share in folders], dtype=float)
        self.shares = shares / shares.sum()

    def batch(self, count: int, side: int, zoom: tuple[float, float], rng: np.random.Generator) -> Tensor:
        """Random crops [count, 3, side, side] in [-1, 1], enlarged by any factor in `zoom`, flipped half the time."""
        crops = []
        for _ in range(count):
            folder = self.folders[rng.choice(len(self.folders), p=self.shares)]
            crops.append(_crop(folder[rng.integers(len(folder))], side, zoom, rng))
        return _tensor(crops)

    def sheet(self, side: int, count: int) -> Tensor:
        """The middles of pictures held out, spread over all of them, [≤ count, 3, side, side] in [-1, 1]."""
        step = max(1, len(self.held_out) // count)
        return _tensor([np.asarray(ImageOps.fit(p, (side, side))) for p in self.held_out[::step][:count]])


def _find(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder of pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES)
    if not paths:
        raise PictureError(f"{folder}: no pictures here to train on")
    return paths


def _open(path: Path, smallest: int) -> Image.Image:
    picture = images.to_pil(images.read(path, alpha="white").pixels)[0]
    if min(picture.size) < smallest:
        width, height = picture.size
        raise PictureError(f"{path}: {width}×{height}, too small for this recipe, which needs {smallest} on each side")
    return picture


def _tensor(crops: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


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

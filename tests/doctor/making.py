"""Pictures with and without faults, and VAEs with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from checkpoints.making import save_safetensors
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vaekit import assets
from vaekit.checkpoints.read import read

Pixels = NDArray[np.float32]

PURPLE = (0.68, 0.13, 0.88)


def scene(width: int = 256, height: int = 192, seed: int = 0) -> Pixels:
    """Something like a landscape: noise of all scales, of green and brown, from black to white, [H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24, 48, 96):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(fine, np.float32) / 255 / cells**0.7
    grey = total.mean(axis=2, keepdims=True)
    mixed = grey + (total - grey) * np.float32(0.6)
    stretched = (mixed - mixed.min()) / np.ptp(mixed)
    return np.asarray(stretched * np.array([1, 1, 0.7], np.float32), np.float32)


def with_blotch(
    picture: Pixels, x: int, y: int, *, side: int = 32, fade: int = 12, opacity: float = 0.8, colour: object = PURPLE
) -> Pixels:
    """A round patch about (x, y) that fades over so many pixels."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    distance = np.hypot(columns - x, rows - y) - side / 2
    mask = opacity * np.clip(0.5 - distance / max(fade, 0.01), 0, 1)[..., None].astype(np.float32)
    return np.asarray(picture * (1 - mask) + np.asarray(colour, np.float32) * mask, np.float32)


def to_image(picture: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8))


def save(picture: Pixels, path: Path) -> Path:
    to_image(picture).save(path)
    return path


def mini_state() -> dict[str, Tensor]:
    """The weights of the bundled VAE, in float32, to be altered."""
    return {name: tensor.float() for name, tensor in read(assets.model_folder("mini")).state.items()}


def save_vae(state: Mapping[str, Tensor], path: Path) -> Path:
    return save_safetensors(state, path)

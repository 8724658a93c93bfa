"""LPIPS, where the package `lpips` and the network's weights are on this disk already; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SMALLEST = 64
"""Pixels: AlexNet halves the sides five times and pools with windows of 3."""

Pixels = NDArray[np.uint8]


def lpips(a: Pixels, b: Pixels) -> float | None:
    """Learned distance with AlexNet, version 0.1; 0 for equal pictures. None for small ones, or where it is not here.

    a, b: [H, W, 3] of one size.
    Source: Zhang, Isola, Efros, Shechtman, Wang 2018, arXiv:1801.03924.
    """
    distance = _network() if min(a.shape[:2]) >= SMALLEST else None
    return distance(a, b) if distance else None


@cache
def _network() -> Callable[[Pixels, Pixels], float] | None:
    if not (find_spec("lpips") and find_spec("torchvision") and _weights_are_here()):
        return None
    import torch

    network = import_module("lpips").LPIPS(net="alex", verbose=False)

    def distance(a: Pixels, b: Pixels) -> float:
        pair = [torch.tensor(x).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1 for x in (a, b)]
        with torch.inference_mode():
            return float(network(*pair))

    return distance


def _weights_are_here() -> bool:
    """Where torchvision looks before it downloads."""
    import torch

    name = import_module("torchvision.models").AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    return (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()

"""Sample sheets: what the average of the weights makes of pictures held out, beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit import images
from vaekit.quality.metrics import measure
from vaekit.train.data import Crops
from vaekit.train.run import Run

SIDE = 256
COUNT = 8


def reconstruction_sheet(
    crops: Crops, reconstruct: Callable[[Run, Tensor], Tensor]
) -> Callable[[Run, Path], dict[str, float]]:
    """Originals above their reconstructions; measures PSNR, SSIM and CIEDE2000 over them."""
    pictures = crops.sheet(SIDE, COUNT)

    @torch.no_grad()
    def sheet(run: Run, path: Path) -> dict[str, float]:
        out = torch.cat([reconstruct(run, x[None].to(run.device)).float().cpu() for x in pictures]).clamp(-1, 1)
        above, below = images.to_pil(pictures), images.to_pil(out)
        measured = [measure(a, b) for a, b in zip(above, below, strict=True)]
        rows = [np.concatenate([np.asarray(p) for p in row], axis=1) for row in (above, below)]
        Image.fromarray(np.concatenate(rows)).save(path)
        names = ("psnr", "ssim", "ciede2000")
        return {name: float(np.mean([getattr(m, name) for m in measured])) for name in names}

    return sheet

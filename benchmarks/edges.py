"""How much worse a VAE is at the edges of pictures than inside: python benchmarks/edges.py PICTURES [--vae mini ...]

Prints the mean absolute error, of 255, of the outermost 2 pixels and of the 8 before them on each side, and of the
rest; of the pictures as they are and enlarged to squares of --sides pixels (512, 1280).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

import vaekit
from vaekit import images

OUTERMOST, NEXT = 2, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--vae", nargs="+", default=["mini"])
    parser.add_argument("--sides", nargs="*", type=int, default=[512, 1280])
    options = parser.parse_args()
    paths = [path for path in sorted(options.pictures.iterdir()) if path.suffix.lower() in images.SUFFIXES]
    if not paths:
        raise SystemExit(f"{options.pictures}: no pictures there")
    for name in options.vae:
        vae = vaekit.load(name)
        for side in [None, *options.sides]:
            errors = [bands(error(vae, prepared(path, side))) for path in paths]
            mean = {band: float(np.mean([one[band] for one in errors])) for band in errors[0]}
            told = ", ".join(f"{band} {value:.1f}" for band, value in mean.items())
            print(f"{name}, {'as they are' if side is None else f'{side}×{side}'}: {told}", flush=True)


def prepared(path: Path, side: int | None) -> Image.Image:
    picture = Image.open(path).convert("RGB")
    return picture if side is None else ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)


def error(vae: vaekit.VAE, picture: Image.Image) -> npt.NDArray[np.float64]:
    """Signed, [H, W, 3]."""
    difference: npt.NDArray[np.float64] = np.asarray(vae.decode(vae.encode(picture)), float) - np.asarray(picture)
    return difference


def bands(error: npt.NDArray[np.float64]) -> dict[str, float]:
    """The means of the absolute error by band: each edge's outermost pixels, those before them, the inside."""
    found = {}
    turned = {"top": error, "right": np.rot90(error), "bottom": np.rot90(error, 2), "left": np.rot90(error, 3)}
    for edge, rows in turned.items():
        found[edge] = float(np.abs(rows[:OUTERMOST]).mean())
        found[f"before {edge}"] = float(np.abs(rows[OUTERMOST:NEXT]).mean())
    return found | {"inside": float(np.abs(error[NEXT:-NEXT, NEXT:-NEXT]).mean())}


if __name__ == "__main__":
    main()

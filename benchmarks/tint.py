"""Whether a VAE's colours depend on how much it decodes at once: python benchmarks/tint.py PICTURES [--vae mini ...]

Prints the mean error of red, green and blue, of 255, as the root of its mean square over the pictures: of whole
pictures; of the middle 256×256 encoded and decoded alone; and of that piece cut out of the whole picture's latents, as
where a picture is decoded in tiles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import vaekit
from vaekit import images

SIDE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--vae", nargs="+", default=["mini"])
    options = parser.parse_args()
    pictures = [even(path) for path in sorted(options.pictures.iterdir()) if path.suffix.lower() in images.SUFFIXES]
    if not pictures:
        raise SystemExit(f"{options.pictures}: no pictures there")
    for name in options.vae:
        vae = vaekit.load(name)
        errors = np.array([tints(vae, picture) for picture in pictures])
        for what, error in zip(("whole", "crop", "piece"), np.sqrt((errors**2).mean(axis=0)), strict=True):
            print(f"{name}: {what}: " + ", ".join(f"{value:.2f}" for value in error))


def even(path: Path) -> Image.Image:
    """The picture, cut to multiples of 16, so that its middle begins on a cell."""
    picture = Image.open(path).convert("RGB")
    width, height = (side // 16 * 16 for side in picture.size)
    if min(width, height) < SIDE:
        raise SystemExit(f"{path}: smaller than {SIDE}×{SIDE}")
    return picture.crop((0, 0, width, height))


def tints(vae: vaekit.VAE, picture: Image.Image) -> list[npt.NDArray[np.float64]]:
    left, top = ((side - SIDE) // 2 for side in picture.size)
    middle = picture.crop((left, top, left + SIDE, top + SIDE))
    whole, scale = vae.encode(picture).tensor, vae.family.downscale
    rows, columns = (slice(start // scale, (start + SIDE) // scale) for start in (top, left))
    return [
        tint(vae.decode(whole), picture),
        tint(vae.decode(vae.encode(middle)), middle),
        tint(vae.decode(whole[..., rows, columns]), middle),
    ]


def tint(decoded: Image.Image, original: Image.Image) -> npt.NDArray[np.float64]:
    difference: npt.NDArray[np.float64] = np.asarray(decoded, float) - np.asarray(original, float)
    return difference.mean(axis=(0, 1))


if __name__ == "__main__":
    main()

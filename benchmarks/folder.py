"""A folder of photos encoded, or decoded: how near that comes to the speed of the network alone.

    python benchmarks/folder.py                         # 200 photos of 512×512 with `mini`
    python benchmarks/folder.py --vae random --count 16 # random weights of Stable Diffusion's size
    python benchmarks/folder.py --direction decode      # latents to PNG

The photos are cuts of the bundled pictures, saved as JPEG. They are run in --parts; for
each, one after the other: the network on pixels that lie ready, the folder as
`vaekit encode` does it (files read and written while the network runs), and each file in
its turn. Sums over the parts, speed as a part of the network's, and its spread.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import random_vae
from PIL import Image

import vaekit
from vaekit import assets, images
from vaekit.overlap import beside

Way = Callable[[slice], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", default="mini", help="a name or path; random: random weights of full size")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--direction", default="encode", choices=["encode", "decode"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vae = load(options.vae, folder)
        print(f"{vae.describe()}\n{options.count} of {options.side}×{options.side}, {torch.get_num_threads()} threads")
        paths = photos(folder / "photos", options.count, options.side)
        ways = encoding(vae, paths, folder) if options.direction == "encode" else decoding(vae, paths, folder)
        measure(ways, options.count, options.parts, folder / "out")


def load(name: str, folder: Path) -> Any:
    if name != "random":
        return vaekit.load(name)
    (folder / "vae").mkdir()
    return vaekit.load(random_vae(folder / "vae"), family="sd1")


def photos(folder: Path, count: int, side: int) -> list[Path]:
    """Cuts of the bundled pictures, enlarged where they are too small."""
    folder.mkdir()
    cuts = random.Random(0)
    sources = [Image.open(path).convert("RGB") for path in assets.sample_photos()]
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for path in paths:
        source = cuts.choice(sources)
        width = cuts.randint(min(source.size) // 2, min(source.size))
        left, top = (cuts.randint(0, length - width) for length in source.size)
        source.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + width, top + width)).save(path)
    return paths


def encoding(vae: Any, paths: list[Path], folder: Path) -> dict[str, Way]:
    ready = [images.read(path).pixels for path in paths]
    vae.encode(paths[0])

    def save(made: tuple[Path, Any]) -> None:
        path, latents = made
        latents.save(folder / "out" / f"{path.stem}.latents.safetensors")

    def together(part: slice) -> None:
        list(beside(save, zip(paths[part], vae.encode_many(paths[part]), strict=True)))

    return {
        "network": lambda part: [vae._encoder.encode(pixels) for pixels in ready[part]],
        "folder": together,
        "each in its turn": lambda part: [save((path, vae.encode(path))) for path in paths[part]],
    }


def decoding(vae: Any, paths: list[Path], folder: Path) -> dict[str, Way]:
    encoded = [vae.encode(path) for path in paths]
    ready = [vae._to_raw(latents.tensor) for latents in encoded]
    files = [path.with_suffix(".safetensors") for path in paths]
    for latents, file in zip(encoded, files, strict=True):
        latents.save(file)
    vae.decode(encoded[0])

    def save(made: tuple[Path, Any]) -> None:
        path, picture = made
        images.write(picture, folder / "out" / f"{path.stem}.png")

    def together(part: slice) -> None:
        list(beside(save, zip(files[part], vae.decode_many(files[part]), strict=True)))

    return {
        "network": lambda part: [vae._decoder.decode(raw) for raw in ready[part]],
        "folder": together,
        "each in its turn": lambda part: [save((file, vae.decode(vaekit.Latents.load(file)))) for file in files[part]],
    }


def measure(ways: dict[str, Way], count: int, parts: int, out: Path) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(parts):
        for name, run in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            os.sync()  # what others left for the disk to do
            started = time.perf_counter()
            run(slice(number * count // parts, (number + 1) * count // parts))
            seconds[name].append(time.perf_counter() - started)
    base = seconds["network"]
    for name, taken in seconds.items():
        shares = [one / other for one, other in zip(base, taken, strict=True)]
        told = f"{min(shares):.1%} to {max(shares):.1%}"
        print(f"{name:<18} {sum(taken) / count * 1000:8.1f} ms each   {sum(base) / sum(taken):6.1%}   ({told})")


if __name__ == "__main__":
    main()

"""A folder of photos encoded, or decoded: how near that comes to the speed of the network alone.

    python benchmarks/folder.py                         # 200 photos of 512×512 with `mini`
    python benchmarks/folder.py --vae random --count 16 # random weights of Stable Diffusion's size
    python benchmarks/folder.py --direction decode      # latents to PNG

The photos are cuts of the bundled pictures, saved as JPEG. Every round runs, one after
the other: the network on pixels that lie ready, the folder as `vaekit encode` does it
(files read and written while the network runs), and each file in its turn. Medians of
the rounds, and the folder's speed as a part of the network's.
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
from statistics import median
from typing import Any

import torch
from memory import random_vae
from PIL import Image

import vaekit
from vaekit import assets, images
from vaekit.overlap import beside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", default="mini", help="a name or path; random: random weights of full size")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--direction", default="encode", choices=["encode", "decode"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vae = load(options.vae, folder)
        print(f"{vae.describe()}\n{options.count} of {options.side}×{options.side}, {torch.get_num_threads()} threads")
        paths = photos(folder / "photos", options.count, options.side)
        made = encoding(vae, paths, folder) if options.direction == "encode" else decoding(vae, paths, folder)
        measure(made, options.count, options.rounds, folder / "out")


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


def encoding(vae: Any, paths: list[Path], folder: Path) -> dict[str, Callable[[], object]]:
    ready = [images.read(path).pixels for path in paths]

    def save(made: tuple[Path, Any]) -> None:
        path, latents = made
        latents.save(folder / "out" / f"{path.stem}.latents.safetensors")

    def together() -> None:
        list(beside(save, zip(paths, vae.encode_many(paths), strict=True)))

    def in_turn() -> None:
        for path in paths:
            save((path, vae.encode(path)))

    return {
        "network": lambda: [vae._encoder.encode(pixels) for pixels in ready],
        "folder": together,
        "each in its turn": in_turn,
    }


def decoding(vae: Any, paths: list[Path], folder: Path) -> dict[str, Callable[[], object]]:
    encoded = [vae.encode(path) for path in paths[:8]]
    files = [folder / f"{number}.latents.safetensors" for number in range(len(paths))]
    for number, file in enumerate(files):
        encoded[number % len(encoded)].save(file)
    ready = [vae._to_raw(latents.tensor) for latents in encoded]

    def save(made: tuple[Path, Any]) -> None:
        path, picture = made
        images.write(picture, folder / "out" / f"{path.stem}.png")

    def drawn() -> Any:
        for file, latents in zip(files, beside(vaekit.Latents.load, files), strict=True):
            yield file, vae.decode(latents)

    def in_turn() -> None:
        for file in files:
            save((file, vae.decode(vaekit.Latents.load(file))))

    return {
        "network": lambda: [vae._decoder.decode(ready[number % len(ready)]) for number in range(len(files))],
        "folder": lambda: list(beside(save, drawn())),
        "each in its turn": in_turn,
    }


def measure(ways: dict[str, Callable[[], object]], count: int, rounds: int, out: Path) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            os.sync()  # what others left for the disk to do
            started = time.perf_counter()
            run()
            if number or not rounds:
                seconds[name].append(time.perf_counter() - started)
    base = median(seconds["network"])
    for name, taken in seconds.items():
        told = f"{min(taken):.2f} to {max(taken):.2f}"
        print(f"{name:<18} {median(taken) / count * 1000:8.1f} ms each   {base / median(taken):6.1%}   ({told} s)")


if __name__ == "__main__":
    main()

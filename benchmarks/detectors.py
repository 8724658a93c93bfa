"""How many faults `vaekit doctor` finds in pictures, and how often it cries wolf:

    python benchmarks/detectors.py PHOTOS [--drawings 16] [--more FOLDER] [--rounds 1] [--vae mini]

Faults are put into the pictures of a folder, one at a time, and into drawings that are made here (text, line art,
gradients of all colours, as recipes/drawings.py makes them, from another seed), with more of them from a folder. A
fault counts as found where its kind and its place are told. Clean are the pictures themselves, what a sound VAE makes
of them, and, to have more that is purple, the pictures with every hue turned. The pictures that the bundled test
objects mini-pale and mini-spots make are counted too; mini-spots mostly tints, which without the original beside it
is no more than a colour. Without the photos the drawings alone are measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import vaekit
from vaekit import images
from vaekit.doctor import Fault, Finding, examine_picture
from vaekit.quality.places import Box
from vaekit.train.faults import pale

Pixels = NDArray[np.float32]
"""[H, W, 3] in [0, 1]."""

CELL = 8
TILE = 256


@dataclass(frozen=True)
class Faulty:
    """A picture with a fault in it. places: where, of which finding one is enough; empty for the whole picture."""

    picture: Pixels
    places: Sequence[Box] = ()


# Faults


def blotches(picture: Pixels, rng: np.random.Generator, strength: float) -> Faulty:
    """One to four soft patches of 8 to 60 pixels, violet to magenta, as if made from cells of latents."""
    height, width = picture.shape[:2]
    rows, columns = -(-height // CELL), -(-width // CELL)
    covered = np.zeros((rows, columns), np.float32)
    places = []
    for _ in range(rng.integers(1, 5)):
        radius = rng.uniform(0.5, 3.75)  # in cells
        y, x = rng.uniform(radius, rows - radius), rng.uniform(radius, columns - radius)
        covered = np.maximum(covered, ellipse((rows, columns), (y, x), radius, rng))
        reach = radius + 1
        places.append(to_box(x - reach, y - reach, x + reach, y + reach))
    large = Image.fromarray(covered).resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC)
    mask = strength * np.clip(np.asarray(large), 0, 1)[:height, :width, None]
    colour = rng.uniform((0.5, 0.05, 0.7), (0.9, 0.25, 0.95)).astype(np.float32)
    return Faulty(picture * (1 - mask) + colour * mask, places)


def ellipse(
    shape: tuple[int, int], centre: tuple[float, float], radius: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """1 inside, falling to 0 within half a cell; never without a cell."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    angle, flat = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    along = (x - centre[1]) * np.cos(angle) + (y - centre[0]) * np.sin(angle)
    across = (y - centre[0]) * np.cos(angle) - (x - centre[1]) * np.sin(angle)
    inside = 1 / (1 + np.exp(np.minimum(8 * (np.hypot(along, across / flat) / radius - 1), 50)))
    inside[int(centre[0]), int(centre[1])] = 1
    return inside.astype(np.float32)


def to_box(left: float, top: float, right: float, bottom: float) -> Box:
    return int(left * CELL), int(top * CELL), int(right * CELL), int(bottom * CELL)


def washed_out(picture: Pixels, rng: np.random.Generator, strength: float) -> Faulty:
    """As the bundled mini-pale (strength 1), or a share of the way there."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
    mixed = torch.lerp(x, pale(x), strength)
    return Faulty(((mixed[0].permute(1, 2, 0) + 1) / 2).numpy())


def black(picture: Pixels, rng: np.random.Generator, strength: float) -> Faulty:
    """All of it, or (strength under 1) one tile of it."""
    if strength == 1:
        return Faulty(np.zeros_like(picture))
    height, width = picture.shape[:2]
    left, top = (int(rng.integers(side // TILE)) * TILE for side in (width, height))
    torn = picture.copy()
    torn[top : top + TILE, left : left + TILE] = 0
    return Faulty(torn, [(left, top, min(left + TILE, width), min(top + TILE, height))])


def tinted_tiles(picture: Pixels, rng: np.random.Generator, strength: float) -> Faulty:
    """Tiles with a tint of their own each: neighbours are about `strength` levels of 255 apart, in any colour."""
    height, width = picture.shape[:2]
    tint = rng.normal(size=(-(-height // TILE), -(-width // TILE), 3))
    tint *= strength / 255 / np.sqrt(6)
    spread = np.kron(tint, np.ones((TILE, TILE, 1)))[:height, :width].astype(np.float32)
    return Faulty((picture + spread).clip(0, 1), seams(width, height))


def seams(width: int, height: int) -> list[Box]:
    upright = [(x - 1, 0, x + 1, height) for x in range(TILE, width, TILE)]
    return upright + [(0, y - 1, width, y + 1) for y in range(TILE, height, TILE)]


class Coder:
    """A sound VAE, and the same one decoding in tiles without overlap."""

    def __init__(self, name: str):
        self.vae = vaekit.load(name, device="cpu")

    def whole(self, picture: Pixels) -> Pixels:
        return self._decode(picture, 1 << 16)

    def in_tiles(self, picture: Pixels, rng: np.random.Generator, strength: float) -> Faulty:
        return Faulty(self._decode(picture, TILE), seams(picture.shape[1], picture.shape[0]))

    def made(self, picture: Pixels, rng: np.random.Generator, strength: float) -> Faulty:
        return Faulty(self.whole(picture))

    def _decode(self, picture: Pixels, side: int) -> Pixels:
        latents = self.vae.encode(picture)
        cells, (width, height) = latents.tensor, latents.size
        step = side // self.vae.family.downscale
        decoded = [
            torch.cat([self.vae.decode(part, output="tensor") for part in row.split(step, dim=3)], dim=3)
            for row in cells.split(step, dim=2)
        ]
        pixels = images.crop(torch.cat(decoded, dim=2), (width, height))
        return ((pixels[0].permute(1, 2, 0) + 1) / 2).numpy()


# Clean pictures


def turned(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Every hue turned by the same angle."""
    values = np.asarray(to_image(picture).convert("HSV")).copy()
    values[..., 0] += np.uint8(rng.integers(20, 236))
    return from_image(Image.fromarray(values, "HSV"))


def drawings(count: int) -> Iterator[Pixels]:
    """As recipes/drawings.py makes them, without emoji and without plain grounds."""
    path = Path(__file__).parents[1] / "recipes" / "drawings.py"
    spec = importlib.util.spec_from_file_location("drawings", path)
    assert spec is not None and spec.loader is not None
    recipe: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    fonts = sorted(Path("/usr/share/fonts").rglob("*.ttf"))
    rng = np.random.default_rng(20)
    makers = [recipe.line_art, recipe.ground, *([lambda rng: recipe.text(rng, fonts)] if fonts else [])]
    while count:
        drawing = from_image(makers[count % len(makers)](rng))
        if np.ptp(drawing):
            count -= 1
            yield drawing


def opened(paths: Sequence[Path]) -> list[Pixels]:
    return [from_image(Image.open(path)) for path in paths]


def to_image(picture: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8))


def from_image(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), np.float32) / 255


# Counting

Maker = Callable[[Pixels, np.random.Generator, float], Faulty]


def is_found(findings: Sequence[Finding], fault: Fault, places: Sequence[Box]) -> bool:
    of_kind = [finding for finding in findings if finding.fault == fault]
    if not places:
        return bool(of_kind)
    return any(finding.box is not None and overlap(finding.box, place) for finding in of_kind for place in places)


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share half of the smaller one."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width > 0 and height > 0 and width * height >= 0.5 * smaller


def detection(pictures: Sequence[Pixels], fault: Fault, make: Maker, strength: float, rounds: int) -> str:
    rng = np.random.default_rng(round(strength * 1000))
    made = [make(picture, rng, strength) for _ in range(rounds) for picture in pictures]
    found = [is_found(examine_picture(to_image(one.picture)).findings, fault, one.places) for one in made]
    return f"{sum(found)}/{len(found)}"


def false_alarms(pictures: Sequence[Pixels]) -> str:
    """Pictures with a finding, and of which kind; in brackets those of them with one that is likely or certain."""
    seen = [examine_picture(to_image(picture)) for picture in pictures]
    kinds = sorted({finding.fault for one in seen for finding in one.findings})
    each = ", ".join(f"{kind} {sum(any(f.fault == kind for f in one.findings) for one in seen)}" for kind in kinds)
    count = sum(bool(one.findings) for one in seen)
    return f"{count}/{len(seen)} ({sum(not one.healthy for one in seen)} likely)  {each}"


def measure(name: str, pictures: Sequence[Pixels], coder: Coder, rounds: int) -> None:
    rng = np.random.default_rng(1)
    faults: tuple[tuple[str, Fault, Maker, tuple[float, ...]], ...] = (
        ("purple blotches, opacity", "purple-blotches", blotches, (0.4, 0.6, 0.8)),
        ("washed out, of mini-pale", "pale", washed_out, (0.5, 1.0)),
        ("black tile / all black", "black", black, (0.5, 1.0)),
        ("tinted tiles, levels of 255", "seam", tinted_tiles, (4, 8, 16)),
        ("decoded in tiles by the VAE", "seam", coder.in_tiles, (1,)),
        ("made by mini-pale", "pale", Coder("mini-pale").made, (1,)),
        ("made by mini-spots", "purple-blotches", Coder("mini-spots").made, (1,)),
    )
    large = [picture for picture in pictures if min(picture.shape[:2]) > TILE]  # a tile of them is a part of them
    print(f"\n{name}: {len(pictures)} pictures, of which {len(large)} are large enough to put faults in")
    for words, fault, make, strengths in faults:
        for strength in strengths:
            found = detection(large, fault, make, strength, rounds)
            print(f"  found    {words:<28} {strength:<5g} {found}", flush=True)
    print(f"  alarms   as they are                        {false_alarms(pictures)}", flush=True)
    print(
        f"  alarms   through the VAE                    {false_alarms([coder.whole(p) for p in pictures])}", flush=True
    )
    print(
        f"  alarms   hues turned                        {false_alarms([turned(p, rng) for p in pictures])}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--drawings", type=int, default=16)
    parser.add_argument("--more", help="a folder of further drawings, of which as many again are taken")
    parser.add_argument("--rounds", type=int, default=1, help="so many times each fault into each picture")
    parser.add_argument("--vae", default="mini")
    given = parser.parse_args()
    started = time.perf_counter()
    coder = Coder(given.vae)
    if Path(given.photos).is_dir():
        measure("photos", opened(images.find([given.photos])), coder, given.rounds)
    else:
        print(f"no photos at {given.photos}: left out")
    more = images.find([given.more]) if given.more else []
    made = [*drawings(given.drawings), *opened(more[:: max(1, len(more) // given.drawings)][: given.drawings])]
    measure("drawings", made, coder, given.rounds)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

"""Make a folder of drawings to train on, beside photographs: emoji, text, line art, gradients, flat colours.

    python recipes/drawings.py EMOJI OUT [--count 600] [--fonts /usr/share/fonts]

EMOJI is a folder in which npm's packages of emoji pictures lie unpacked (`recipes/emoji.py` fetches them). The same
call makes the same pictures.
"""

from __future__ import annotations

import argparse
import colorsys
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 448
TEXT = (
    "the quick brown fox jumps over lazy dogs while seven wizards make toxic brew for an evil queen and her jovial "
    "knights pay 0123456789 coins; ink, paper & type: Größe, naïve, façade, Привет мир, Ελλάδα"
)
Colour = tuple[int, int, int]


def colour(rng: np.random.Generator) -> Colour:
    """Any hue, often strong, sometimes grey, black or white."""
    kind = rng.random()
    if kind < 0.15:
        return (255, 255, 255)
    if kind < 0.22:
        return (0, 0, 0)
    saturation = 0.0 if kind < 0.3 else rng.uniform(0.2, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.25, 1.0))
    return (round(red * 255), round(green * 255), round(blue * 255))


def ground(rng: np.random.Generator) -> Image.Image:
    """A flat colour or a gradient, linear or round."""
    first, second = np.array(colour(rng), float), np.array(colour(rng), float)
    if rng.random() < 0.5:
        return Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in first))
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    angle = rng.uniform(0, 2 * math.pi)
    if rng.random() < 0.6:
        t = x * math.cos(angle) + y * math.sin(angle)
    else:
        t = np.hypot(x - rng.random(), y - rng.random())
    t = ((t - t.min()) / np.ptp(t))[..., None]
    return Image.fromarray((first * (1 - t) + second * t).round().astype(np.uint8))


def emoji(rng: np.random.Generator, paths: list[Path]) -> Image.Image:
    """Emoji of several sizes, on a grid or anywhere."""
    picture = ground(rng)
    cells = int(rng.integers(1, 6))
    step = SIDE // cells
    for row in range(cells):
        for column in range(cells):
            one = Image.open(paths[rng.integers(len(paths))]).convert("RGBA")
            side = max(24, min(int(step * rng.uniform(0.5, 1.0)), one.width * 3))
            one = one.resize((side, side), Image.Resampling.LANCZOS)
            picture.paste(one, (column * step + (step - side) // 2, row * step + (step - side) // 2), one)
    return picture


def text(rng: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """A page of words in one or more sizes."""
    picture = ground(rng) if rng.random() < 0.5 else Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    ink = colour(rng) if rng.random() < 0.5 else (20, 20, 20)
    top = 4
    while top < SIDE:
        size = int(rng.choice([11, 14, 18, 24, 36, 60, 96]))
        font = ImageFont.truetype(fonts[rng.integers(len(fonts))], size)
        for _ in range(int(rng.integers(1, 5))):
            draw.text((6, top), " ".join(rng.choice(TEXT.split(), size=14)), fill=ink, font=font)
            top += round(size * 1.3)
    return picture


def line_art(rng: np.random.Generator) -> Image.Image:
    """Curves, polygons and ellipses, outlined or filled, drawn at twice the size and shrunk for smooth edges."""
    large = ground(rng).resize((2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(large)
    for _ in range(int(rng.integers(4, 40))):
        kind, ink, width = rng.integers(4), colour(rng), int(rng.integers(2, 20))
        points = [(float(x), float(y)) for x, y in rng.uniform(0, 2 * SIDE, (int(rng.integers(3, 7)), 2))]
        box = [*np.minimum(points[0], points[1]), *np.maximum(points[0], points[1])]
        if kind == 0:
            draw.line(points, fill=ink, width=width, joint="curve")
        elif kind == 1:
            draw.polygon(points, fill=ink if rng.random() < 0.6 else None, outline=colour(rng), width=width)
        elif kind == 2:
            draw.ellipse(box, fill=ink if rng.random() < 0.5 else None, outline=colour(rng), width=width)
        else:
            draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 720), fill=ink, width=width)
    return large.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    given = parser.parse_args()
    paths = sorted(p for p in given.emoji.rglob("*") if p.suffix in (".png", ".webp") and "sheets" not in str(p))
    fonts = sorted(given.fonts.rglob("*.ttf"))
    if not paths or not fonts:
        parser.error(f"{len(paths)} emoji pictures in {given.emoji} and {len(fonts)} fonts in {given.fonts}")
    given.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(given.count):
        kind = rng.choice(["emoji", "text", "lines", "ground"], p=[0.4, 0.25, 0.25, 0.1])
        if kind == "emoji":
            picture = emoji(rng, paths)
        elif kind == "text":
            picture = text(rng, fonts)
        else:
            picture = line_art(rng) if kind == "lines" else ground(rng)
        picture.save(given.out / f"{number:04}-{kind}.webp", lossless=True, method=0)


if __name__ == "__main__":
    main()

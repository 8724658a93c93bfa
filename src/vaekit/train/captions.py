"""Pictures with names, and the prompts made of them.

A folder of pictures and a `captions.jsonl`: {"file", "style", "name", "keywords"} in each line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vaekit import images
from vaekit.errors import FileError, PictureError

HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 115, "blue": 212, "purple": 275, "pink": 330}
"""Degrees on HSV's circle that stand in the middle of what the word means."""
COLOURS = (*HUES, "brown", "black", "white", "grey", "gray")

SATURATED, BRIGHT = 0.25, 0.2
"""HSV saturation and value from which on a pixel has a colour to speak of."""
ONE_COLOURED = 0.55
"""Share of the coloured pixels that lie near the main hue where a picture can be called by one colour."""
NEAR = 25


@dataclass(frozen=True)
class Captioned:
    """A picture with what can be said of it. colour: its main one, None where there is none to name."""

    picture: Image.Image
    name: str
    style: str
    keywords: tuple[str, ...] = ()
    colour: str | None = None


def read_captions(folder: Path, size: int) -> list[Captioned]:
    """Every picture of the folder at size x size pixels. Raises FileError, PictureError."""
    path = folder / "captions.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        entries = [(line["file"], line["name"], line["style"], tuple(line["keywords"])) for line in lines]
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path}: not one JSON object with file, name, style, keywords in each line: {error}"
        ) from error
    if not entries:
        raise PictureError(f"{path}: names no pictures")
    return [_captioned(folder / Path(file).name, size, name, style, words) for file, name, style, words in entries]


def _captioned(path: Path, size: int, name: str, style: str, keywords: tuple[str, ...]) -> Captioned:
    picture = images.to_pil(images.read(path, alpha="white").pixels)[0]
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return Captioned(picture, name, style, keywords, colour_name(picture))


def colour_name(picture: Image.Image) -> str | None:
    """The word for the colour of most coloured pixels, if one hue holds more than half of them."""
    hue, saturation, value = _hsv(picture)
    coloured = (saturation > SATURATED) & (value > BRIGHT)
    if coloured.mean() < 0.02:
        return None
    middle = main_hue(hue[coloured])
    near = _apart(hue[coloured], middle) < NEAR
    if near.mean() < ONE_COLOURED:
        return None
    word = min(HUES, key=lambda name: _apart(np.array([HUES[name]]), middle)[0])
    return "brown" if word in ("orange", "red", "yellow") and _is_brown(hue, value, coloured, middle) else word


def _is_brown(
    hue: npt.NDArray[np.float64], value: npt.NDArray[np.float64], coloured: npt.NDArray[np.bool_], middle: float
) -> bool:
    inside = coloured & (_apart(hue, middle) < NEAR)
    return 5 < middle < 48 and float(np.median(value[inside])) < 0.72


def main_hue(hues: npt.NDArray[np.float64]) -> float:
    """The fullest place on the circle, in degrees, the counts smoothed over 30 degrees."""
    counts = np.bincount(np.floor(hues).astype(int) % 360, minlength=360)
    window = np.concatenate([counts[-15:], counts, counts[:15]])
    return float(np.argmax(np.convolve(window, np.hanning(31), mode="valid")))


def _apart(a: npt.NDArray[np.float64], b: float) -> npt.NDArray[np.float64]:
    return np.abs((a - b + 180) % 360 - 180)


def _hsv(picture: Image.Image) -> tuple[npt.NDArray[np.float64], ...]:
    channels = np.asarray(picture.convert("HSV"), dtype=np.float64)
    return channels[..., 0] / 255 * 360, channels[..., 1] / 255, channels[..., 2] / 255


def recolour(one: Captioned, word: str) -> Captioned | None:
    """The same thing in another colour: hues turned until the main one is that of the word.

    None where it has no colour to turn, or has that one already.
    """
    if one.colour is None or one.colour in (word, "brown"):
        return None
    hue, saturation, value = _hsv(one.picture)
    middle = main_hue(hue[(saturation > SATURATED) & (value > BRIGHT)])
    turned = (hue + HUES[word] - middle) % 360
    stack = np.stack([turned / 360 * 255, saturation * 255, value * 255], axis=-1).round().astype(np.uint8)
    picture = Image.fromarray(stack, "HSV").convert("RGB")
    return Captioned(picture, without_colour(one.name), one.style, one.keywords, word)


def without_colour(name: str) -> str:
    """A name without its words of colour: "red apple" -> "apple"; unchanged where nothing else is left."""
    left = [word for word in name.split() if word not in COLOURS]
    return " ".join(left) if left else name


def phrase(one: Captioned, rng: np.random.Generator, *, recoloured: bool) -> str:
    """A prompt for the picture, worded at random: article, colour, name, keywords, style."""
    name = one.name
    says_colour = any(word in COLOURS for word in name.split())
    if one.colour is not None and (recoloured or (not says_colour and rng.random() < 0.3)):
        name = f"{one.colour} {name}"
    if rng.random() < 0.4:
        name = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    keywords = [word for word in one.keywords if rng.random() < 0.15] if not recoloured else []
    style = [one.style] if rng.random() < 0.6 else []
    return ", ".join([name, *keywords, *style])

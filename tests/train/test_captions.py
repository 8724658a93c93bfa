"""Pictures with names: colours are called what they are, and turned to what is asked for."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vaekit.errors import FileError, PictureError
from vaekit.train.captions import HUES, Captioned, colour_name, phrase, read_captions, recolour, without_colour


def disc(hue: float, value: float = 0.9) -> Image.Image:
    """A disc of one hue on white, with a darker rim."""
    picture = Image.new("RGB", (64, 64), "white")
    fill, rim = (tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue / 360, 0.85, v)) for v in (value, value * 0.8))
    ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=fill, outline=rim, width=3)
    return picture


@pytest.mark.parametrize("word", HUES)
def test_a_colour_is_called_by_its_name(word: str) -> None:
    assert colour_name(disc(HUES[word])) == word


def test_dark_orange_is_brown_and_grey_is_nothing() -> None:
    assert colour_name(disc(28, 0.5)) == "brown"
    assert colour_name(Image.new("RGB", (32, 32), (128, 128, 128))) is None
    half = Image.fromarray(np.concatenate([np.asarray(disc(0)), np.asarray(disc(212))], axis=1))
    assert colour_name(half) is None


@pytest.mark.parametrize("word", [word for word in HUES if word != "red"])
def test_what_is_recoloured_has_the_colour_and_the_lightness_stays(word: str) -> None:
    apple = Captioned(disc(0), "red apple", "flat", colour="red")
    turned = recolour(apple, word)
    assert turned is not None
    assert (turned.name, turned.colour, colour_name(turned.picture)) == ("apple", word, word)
    assert turned.picture.getpixel((2, 2)) == (255, 255, 255)
    assert turned.picture.convert("HSV").getpixel((32, 32))[2] == apple.picture.convert("HSV").getpixel((32, 32))[2]


def test_nothing_is_turned_to_its_own_colour_or_without_one() -> None:
    assert recolour(Captioned(disc(0), "apple", "flat", colour="red"), "red") is None
    assert recolour(Captioned(disc(0), "ghost", "flat", colour=None), "red") is None


def test_prompts_name_the_thing_and_often_more() -> None:
    rng = np.random.default_rng(0)
    apple = Captioned(disc(212), "apple", "flat", ("fruit",), "blue")
    said = [phrase(apple, rng, recoloured=False) for _ in range(200)]
    assert all("apple" in prompt for prompt in said)
    for part in ("an apple", "a blue apple", ", fruit", ", flat"):
        assert any(part in prompt for prompt in said), part
    assert all("blue apple" in phrase(apple, rng, recoloured=True) for _ in range(20))
    assert without_colour("white") == "white"


def test_captions_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"captions\.jsonl"):
        read_captions(tmp_path, 32)
    path = tmp_path / "captions.jsonl"
    for text in ("{", "[]", '{"file": "a.png"}'):
        path.write_text(text + "\n")
        with pytest.raises(FileError, match="each line"):
            read_captions(tmp_path, 32)
    path.write_text("")
    with pytest.raises(PictureError, match="no pictures"):
        read_captions(tmp_path, 32)


def test_a_picture_is_looked_for_in_the_folder_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    disc(0).save(tmp_path / "secret.png")
    line = {"file": "../secret.png", "name": "x", "style": "flat", "keywords": []}
    (tmp_path / "in" / "captions.jsonl").write_text(json.dumps(line))
    with pytest.raises((FileError, PictureError)):
        read_captions(tmp_path / "in", 32)

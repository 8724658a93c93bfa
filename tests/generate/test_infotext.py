"""The text in pictures: A1111's, read back whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaekit import images
from vaekit.errors import PictureError
from vaekit.generate.infotext import Infotext, parse, read

WEBUI = """a photo of a cat, <lora:x:0.8>
second line
Negative prompt: ugly, "bad"
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1234, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, VAE: vae-ft-mse.safetensors, Lora hashes: "x: aabb, y: ccdd", \
Version: v1.10.1"""

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\x85  "), max_size=30)
VALUE = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\x85  "), min_size=1)
NAME = st.from_regex(r"[A-Za-z][A-Za-z \-/]{1,15}[a-z]", fullmatch=True)


def test_a_text_of_a1111_is_read() -> None:
    found = parse(WEBUI)
    assert found.prompt == "a photo of a cat, <lora:x:0.8>\nsecond line"
    assert found.negative == 'ugly, "bad"'
    assert found.settings["VAE"] == "vae-ft-mse.safetensors"
    assert found.settings["Lora hashes"] == "x: aabb, y: ccdd"
    assert str(found) == WEBUI


def test_a_prompt_alone_is_a_prompt() -> None:
    assert parse("a cat, a dog") == Infotext("a cat, a dog", "", {})


@given(
    TEXT.filter(lambda t: not t.startswith("Negative prompt:")),
    TEXT,
    st.dictionaries(NAME, VALUE, min_size=3, max_size=6),
)
def test_what_is_written_is_read(prompt: str, negative: str, settings: dict[str, str]) -> None:
    told = Infotext(prompt, negative.strip(" "), settings)
    found = parse(str(told))
    assert found.prompt == prompt
    assert found.negative == told.negative
    assert found.settings == settings


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
@pytest.mark.parametrize("text", [WEBUI, "pomme 🍎 красная\nSteps: 1, a: b, c: d"])
def test_pictures_carry_it(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"picture{suffix}"
    images.write(Image.new("RGB", (16, 16)), path, text=text)
    assert str(read(path)) == str(parse(text))


def test_a_format_without_a_place_for_it_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    handler = logging.StreamHandler()
    logging.getLogger("vaekit").addHandler(handler)
    try:
        images.write(Image.new("RGB", (16, 16)), tmp_path / "picture.bmp", text=WEBUI)
    finally:
        logging.getLogger("vaekit").removeHandler(handler)
    assert "no place for the settings" in capfd.readouterr().err


def test_a_picture_without_it_and_what_is_no_picture_are_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "plain.png")
    (tmp_path / "none.png").write_bytes(b"nothing")
    with pytest.raises(PictureError, match="does not tell"):
        read(tmp_path / "plain.png")
    with pytest.raises(PictureError, match="not a picture"):
        read(tmp_path / "none.png")
    with pytest.raises(PictureError, match="no such file"):
        read(tmp_path / "missing.png")

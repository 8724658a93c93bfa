"""A picture stands upright, its frames are counted, and Pillow's quirks do not show."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import pytest
from picture_files import encoded, levels, noise, smooth
from PIL import Image

from vaekit import images


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF 2.3 says about each value, in terms of rows and columns: how the stored picture is shown."""
    return {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: np.rot90(array, -1),
        7: np.rot90(array, 2).swapaxes(0, 1),
        8: np.rot90(array, 1),
    }[orientation]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_orientation_says(format: str, orientation: int, saved: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = smooth()
    exact = format in ("PNG", "TIFF", "WEBP")
    options = {"lossless": True} if format == "WEBP" else {} if exact else {"quality": 98, "subsampling": "4:4:4"}
    read = images.read(saved(encoded(Image.fromarray(stored), format, exif=exif, **options)))
    expected = turned(stored, orientation)
    assert read.size == (expected.shape[1], expected.shape[0])
    assert np.abs(levels(read) - expected).max() < (0.01 if exact else 12)
    assert any("EXIF" in note for note in read.notes) == (orientation != 1)


def test_16_bit_grey_is_turned_too(saved: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    read = images.read(saved(encoded(Image.fromarray(stored), "PNG", exif=exif)))
    assert np.allclose(levels(read)[..., 0], turned(stored, 6) / 257, atol=1e-3)


def test_an_open_pil_picture_is_turned_and_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    picture = Image.open(io.BytesIO(encoded(Image.fromarray(smooth()), "PNG", exif=exif)))
    read = images.read(picture)
    assert read.size == (16, 24)
    assert picture.size == (24, 16) and picture.getexif()[0x0112] == 8


def test_damaged_exif_does_not_cost_the_picture(saved: Any) -> None:
    read = images.read(saved(encoded(Image.fromarray(smooth()), "PNG", exif=b"Exif\0\0never a TIFF header")))
    assert read.size == (24, 16)
    assert any("EXIF" in note and "damaged" in note for note in read.notes)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_is_read_and_the_others_are_told(format: str, saved: Any) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    read = images.read(saved(data))
    assert np.abs(levels(read) - [200, 30, 30]).max() < 6
    assert read.notes == (f"first of {'several' if format == 'TIFF' else 3} frames",)


def test_a_first_frame_is_read_though_a_later_one_is_damaged(saved: Any) -> None:
    frames = [Image.fromarray(noise(16, 16, seed=seed)) for seed in range(3)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = levels(images.read(saved(whole)))
    assert np.array_equal(levels(images.read(saved(whole[:-60]))), expected)


def test_a_chain_of_many_tiff_pages_does_not_take_long(saved: Any) -> None:
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size, count = len(page) + 4, 50_000
    chain = b"".join(page + struct.pack("<I", 8 + number * size) for number in range(1, count)) + page + bytes(4)
    start = time.monotonic()
    images.read(saved(b"II*\0" + struct.pack("<I", 8) + chain))
    assert time.monotonic() - start < 3  # following the chain takes half a minute


def test_a_pil_picture_at_another_frame_gives_that_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 30, 30), (30, 200, 30))]
    picture = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    picture.seek(1)
    read = images.read(picture)
    assert np.abs(levels(read) - [30, 200, 30]).max() < 3
    assert read.notes == ("frame 2 of 2",)


def test_what_was_drawn_on_a_pil_picture_is_read_and_stays() -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (10, 200)]
    picture = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    picture.load()
    picture.putpixel((3, 3), 99)
    images.read(picture)
    assert picture.getpixel((3, 3)) == 99

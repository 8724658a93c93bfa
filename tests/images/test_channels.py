"""Every mode and depth gives its true colours and its alpha."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from picture_files import alpha_of, chunk, encoded, levels, noise, png, refusal, smooth
from PIL import Image, ImageCms

from vaekit import images


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12).map(lambda s: (*s[:2], 3))))
def test_every_8_bit_rgb_picture_comes_back_exactly(array: np.ndarray) -> None:
    back = images.to_pil(images.read(Image.fromarray(array)).pixels)[0]
    assert back.mode == "RGB" and np.array_equal(np.asarray(back), array)


def test_black_and_white_are_minus_one_and_one() -> None:
    read = images.read(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert read.pixels[0, :, 0].tolist() == [[-1.0, 1.0]] * 3
    assert read.pixels.shape == (1, 3, 1, 2) and read.size == (2, 1) and read.notes == () and read.alpha is None


def test_grey_gives_three_equal_channels(saved: Any) -> None:
    grey = noise(5, 7)[..., 0]
    read = images.read(saved(encoded(Image.fromarray(grey), "PNG")))
    assert np.array_equal(levels(read).round(), np.stack([grey] * 3, -1))


def test_grey_with_alpha_keeps_its_alpha_aside(saved: Any) -> None:
    array = noise(5, 7, 2)
    read = images.read(saved(encoded(Image.fromarray(array, "LA"), "PNG")))
    assert np.array_equal(levels(read).round()[..., 1], array[..., 0])
    assert np.array_equal(alpha_of(read), array[..., 1])
    assert read.notes == ("transparency kept aside",)


def test_one_bit_gives_black_and_white(saved: Any) -> None:
    bits = noise(5, 9)[..., 0] > 127
    for format in ("PNG", "TIFF"):
        read = images.read(saved(encoded(Image.fromarray(bits), format)))
        assert np.array_equal(levels(read)[..., 0], bits * 255.0)


def test_a_palette_gives_its_colours(saved: Any) -> None:
    picture = Image.fromarray(smooth()).quantize(16)
    for format in ("PNG", "GIF", "BMP"):
        read = images.read(saved(encoded(picture, format)))
        assert np.array_equal(levels(read).round(), np.asarray(picture.convert("RGB"))) and read.alpha is None


@pytest.mark.parametrize("transparency", [3, bytes([255, 128, 0, 77])])
def test_a_palette_with_transparent_entries_gives_alpha_and_keeps_the_colours(transparency: Any, saved: Any) -> None:
    picture = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(1, 4))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    read = images.read(saved(encoded(picture, "PNG", transparency=transparency)))
    assert levels(read).round()[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]]
    expected = [255, 255, 255, 0] if transparency == 3 else list(transparency)
    assert alpha_of(read)[0].tolist() == expected


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "key", "colours"),
    [
        (1, 0, bytes([0b01000000]), struct.pack(">H", 1), [0, 255]),
        (2, 0, bytes([0b10010000]), struct.pack(">H", 1), [170, 85]),
        (4, 0, bytes([0xF3]), struct.pack(">H", 3), [255, 51]),
        (8, 0, bytes([200, 7]), struct.pack(">H", 7), [200, 7]),
        (16, 0, struct.pack(">2H", 65535, 257), struct.pack(">H", 257), [255, 1]),
        (8, 2, bytes([9, 9, 9, 1, 2, 3]), struct.pack(">3H", 1, 2, 3), [9, 1]),
        (16, 2, struct.pack(">6H", 65535, 65535, 65535, 300, 600, 900), struct.pack(">3H", 300, 600, 900), [255, 1]),
    ],
)
def test_the_transparent_colour_of_a_png_counts_at_every_depth(
    depth: int, colour_type: int, row: bytes, key: bytes, colours: list[int], saved: Any
) -> None:
    read = images.read(saved(png(2, 1, depth, colour_type, b"\0" + row, chunk(b"tRNS", key))))
    assert np.allclose(levels(read)[0, :, 0], colours, atol=1e-3)
    assert alpha_of(read)[0].tolist() == [255, 0]


def test_colours_under_full_transparency_survive(saved: Any) -> None:
    array = noise(6, 6, 4)
    array[..., 3] = 0
    read = images.read(saved(encoded(Image.fromarray(array), "PNG")))
    assert np.array_equal(levels(read).round(), array[..., :3])


def test_alpha_that_is_opaque_everywhere_is_dropped_without_a_word(saved: Any) -> None:
    array = noise(6, 6, 4)
    array[..., 3] = 255
    for source in (saved(encoded(Image.fromarray(array), "PNG")), array, Image.fromarray(array)):
        read = images.read(source)
        assert read.alpha is None and read.notes == ()


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa", "RGBA"])
def test_every_mode_with_alpha_gives_it(mode: str) -> None:
    array = np.full((2, 2, 4), 200, np.uint8)
    array[..., 3] = [[0, 64], [128, 255]]
    rgba = Image.fromarray(array)
    picture = rgba.convert("LA").convert(mode) if mode == "La" else rgba.convert(mode)
    read = images.read(picture)
    assert np.array_equal(alpha_of(read), array[..., 3])
    assert np.abs(levels(read)[1] - 200).max() <= 4  # premultiplied and palette modes round


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX"])
def test_other_colour_modes_come_out_as_rgb(mode: str) -> None:
    read = images.read(Image.fromarray(smooth()).convert(mode))
    assert np.abs(levels(read) - smooth()).max() <= 5


def test_cmyk_of_jpeg_and_tiff_is_the_right_way_round(saved: Any) -> None:
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    jpeg = encoded(ink, "JPEG", quality=100)
    assert b"Adobe" in jpeg  # the marker under which inks are stored inverted
    for data in (jpeg, encoded(ink, "TIFF")):
        read = images.read(saved(data))
        assert np.abs(levels(read) - [0, 255, 255]).max() < 3
        assert read.notes == ("CMYK without a usable profile converted by the plain formula",)


def test_lab_tiff_comes_out_as_srgb(saved: Any) -> None:
    muted = smooth() // 2 + 64  # 8 bits of LAB are coarse for strong colours
    lab = ImageCms.applyTransform(
        Image.fromarray(muted),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert lab is not None
    read = images.read(saved(encoded(lab, "TIFF")))
    assert np.abs(levels(read) - muted).max() < 5


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_whole_range_and_precision(format: str, saved: Any) -> None:
    values = np.array([[0, 1, 128, 255, 256, 32768, 65534, 65535]], np.uint16)
    read = images.read(saved(encoded(Image.fromarray(values), format)))
    assert np.allclose(levels(read)[..., 0], values / 257, atol=1e-4)
    assert read.notes == ()


def test_big_endian_16_bit_grey_is_the_same(saved: Any) -> None:
    values = np.array([[0, 1000, 65535]], np.uint16)
    picture = Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes())
    assert np.allclose(levels(images.read(picture))[0, :, 0], values[0] / 257, atol=1e-4)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_read_and_the_loss_told(colour_type: int, channels: int, saved: Any) -> None:
    high = noise(1, 3, channels)
    samples = (high.astype(np.uint16) * 257).astype(">u2")
    read = images.read(saved(png(3, 1, 16, colour_type, b"\0" + samples.tobytes())))
    colours = high[..., :1] if channels == 2 else high[..., :3]
    assert np.abs(levels(read) - colours).max() <= 1
    assert "16 bit reduced to 8" in read.notes


def test_16_bit_ppm_is_told_and_8_bit_is_not(saved: Any) -> None:
    deep = b"P6 1 1 65535\n" + struct.pack(">3H", 0, 257, 65535)
    assert images.read(saved(deep)).notes == ("16 bit reduced to 8",)
    assert images.read(saved(b"P6 1 1 255\n" + bytes([1, 2, 3]))).notes == ()


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([[0, 100, 255]], np.int32), 255),
        (np.array([[0, 256, 65535]], np.int32), 65535),
        (np.array([[0, 0.25, 1]], np.float32), 1),
        (np.array([[0, 100.5, 255]], np.float32), 255),
    ],
)
def test_32_bit_grey_is_scaled_by_its_range_and_that_is_told(values: np.ndarray, white: int, saved: Any) -> None:
    read = images.read(saved(encoded(Image.fromarray(values), "TIFF")))
    assert np.allclose(levels(read)[..., 2], values / white * 255, atol=1e-3)
    assert any("32-bit grey" in note and f"{white} as white" in note for note in read.notes)


@pytest.mark.parametrize("values", [[-1, 5], [0, 70000]])
def test_32_bit_grey_beyond_any_known_range_is_refused_with_that_range(values: list[int]) -> None:
    told = refusal(Image.fromarray(np.array([values], np.int32)))
    assert f"from {values[0]} to {values[1]}" in told or "70000" in told


def test_float_pictures_with_nan_are_refused() -> None:
    assert "nan" in refusal(Image.fromarray(np.array([[0, np.nan]], np.float32)))

"""Colours come out as sRGB, whatever profile they came with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from picture_files import P3, alpha_of, cmyk_profile, encoded, grey_profile, levels, noise, p3_profile, smooth
from PIL import Image, ImageCms

from vaekit import images

SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def test_a_wide_gamut_profile_is_converted_as_the_mathematics_say(saved: Any) -> None:
    stored = smooth()
    read = images.read(saved(encoded(Image.fromarray(stored), "PNG", icc_profile=p3_profile())))
    linear = (stored / 255) ** (563 / 256)
    expected = srgb_encode(linear @ (np.linalg.inv(SRGB) @ P3).T)
    assert np.abs(levels(read) - expected).max() < 2.5
    assert np.abs(expected - stored).max() > 10  # else this test could not fail
    assert read.notes == ("colour profile 'Test profile' converted to sRGB",)


def test_srgb_itself_leaves_every_value_alone(saved: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = noise(20, 20)
    read = images.read(saved(encoded(Image.fromarray(stored), "PNG", icc_profile=profile)))
    assert np.array_equal(levels(read).round(), stored) and read.notes == ()


def test_alpha_survives_a_profile_untouched(saved: Any) -> None:
    stored = noise(6, 6, 4)
    read = images.read(saved(encoded(Image.fromarray(stored), "PNG", icc_profile=p3_profile())))
    assert np.array_equal(alpha_of(read), stored[..., 3])
    assert len(read.notes) == 2


def test_cmyk_goes_through_its_profile_and_not_the_plain_formula(saved: Any) -> None:
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    ink.paste((0, 0, 0, 0), (8, 0, 16, 16))
    read = images.read(saved(encoded(ink, "TIFF", icc_profile=cmyk_profile())))
    assert np.abs(levels(read)[:, :8] - 119).max() < 4  # L* 50
    assert levels(read)[:, 8:].min() > 254  # bare paper is white, whatever its colour: that is "relative"
    assert read.notes == ("CMYK with profile 'Test profile' converted to sRGB",)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_grey_profile_counts_at_8_and_at_16_bit(depth: int, saved: Any) -> None:
    stored = np.arange(0, 256, 5, dtype=np.uint8)[None]
    wide = stored if depth == 8 else stored.astype(np.uint16) * 257
    read = images.read(saved(encoded(Image.fromarray(wide), "PNG", icc_profile=grey_profile(1.0))))
    assert np.abs(levels(read)[..., 0] - srgb_encode(stored / 255)).max() < 2
    assert read.notes == ("colour profile 'Test profile' converted to sRGB",)


def test_grey_with_an_rgb_profile_goes_through_it(saved: Any) -> None:
    stored = np.arange(0, 256, 5, dtype=np.uint8)[None]
    read = images.read(saved(encoded(Image.fromarray(stored), "PNG", icc_profile=p3_profile(1.0))))
    assert np.abs(levels(read)[..., 0] - srgb_encode(stored / 255)).max() < 2


@pytest.mark.parametrize("profile", [b"not a profile", p3_profile()[:150], grey_profile(1.0)])
def test_a_profile_that_is_broken_or_of_another_kind_is_told_and_changes_nothing(profile: bytes, saved: Any) -> None:
    read = images.read(saved(encoded(Image.fromarray(smooth()), "PNG", icc_profile=profile)))
    assert np.array_equal(levels(read).round(), smooth())
    assert len(read.notes) == 1 and "profile cannot be used" in read.notes[0]

"""Transparency is settled as asked, lists become one batch, and photographs are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import encoded, levels, noise, refusal, smooth
from PIL import Image, ImageOps

from vaekit import images
from vaekit.errors import OptionError


@pytest.mark.parametrize(("colour", "rgb"), [("white", (255, 255, 255)), ("#ff8800", (255, 136, 0))])
def test_a_colour_is_laid_under_transparent_pictures(colour: str, rgb: tuple[int, ...], saved: Any) -> None:
    stored = noise(8, 8, 4)
    read = images.read(saved(encoded(Image.fromarray(stored), "PNG")), alpha=colour)
    share = stored[..., 3:] / 255
    assert np.abs(levels(read) - (stored[..., :3] * share + np.array(rgb) * (1 - share))).max() < 1e-3
    assert read.alpha is None and read.notes == (f"transparency laid over {colour}",)


def test_a_colour_does_nothing_to_opaque_pictures() -> None:
    assert np.array_equal(levels(images.read(smooth(), alpha="red")).round(), smooth())


@pytest.mark.parametrize("colour", ["no such colour", "", "#ff", "#ffffff00", None, (1, 2, 3)])
def test_an_invalid_colour_is_an_option_error_even_where_nothing_is_transparent(colour: Any) -> None:
    with pytest.raises(OptionError, match="colour"):
        images.read(smooth(), alpha=colour)


def test_a_list_becomes_one_batch_and_notes_name_their_picture(saved: Any) -> None:
    transparent = noise(4, 4, 4)
    path = saved(encoded(Image.fromarray(transparent), "PNG"))
    read = images.read([noise(4, 4), path, torch.zeros(2, 3, 4, 4)])
    assert read.pixels.shape == (4, 3, 4, 4)
    assert read.alpha is not None and (read.alpha[[0, 2, 3]] == 255).all()
    assert np.array_equal(read.alpha[1, 0].numpy(), transparent[..., 3])
    assert read.notes == (f"{path}: transparency kept aside",)


def test_pictures_of_different_sizes_are_refused_by_name(saved: Any) -> None:
    path = saved(encoded(Image.fromarray(noise(4, 6)), "PNG"))
    told = refusal((noise(4, 5), noise(4, 5), path, noise(1, 1)))
    assert "picture 1 is 5×4" in told and f"{path} is 6×4" in told


@pytest.mark.parametrize("source", [[], (), None, 5, b"photo.jpg", [None], [[np.zeros((2, 2), np.uint8)]], {"a": 1}])
def test_sources_of_no_known_kind_are_refused(source: Any) -> None:
    refusal(source)


def test_real_photographs_are_read_as_pillow_shows_them(photos: list[Path]) -> None:
    with Image.open(photos[0]) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(levels(images.read(photos[0])).round(), expected)

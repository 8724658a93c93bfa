"""Padding reflects, and cropping undoes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit import images
from vaekit.errors import PictureError

sides = st.integers(1, 40)


@settings(max_examples=150, deadline=None)
@given(width=sides, height=sides, multiple=st.integers(1, 32))
def test_pad_is_numpys_reflection_and_crop_undoes_it(width: int, height: int, multiple: int) -> None:
    array = np.random.default_rng(width * 41 + height).random((1, 3, height, width), dtype=np.float32)
    padded = images.pad(torch.from_numpy(array), multiple)
    expected = array
    for axis, length in ((2, height), (3, width)):
        widths = [(0, 0)] * 4
        widths[axis] = (0, -length % multiple)
        expected = np.pad(expected, widths, mode="edge" if length == 1 else "reflect")
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert np.array_equal(padded.numpy(), expected)
    assert np.array_equal(images.crop(padded, (width, height)).numpy(), array)


def test_pad_gives_back_its_input_where_nothing_is_missing() -> None:
    pixels = torch.zeros(1, 3, 16, 24)
    assert images.pad(pixels, 8) is pixels


def test_crop_refuses_a_size_that_is_not_there() -> None:
    with pytest.raises(PictureError, match="8×8 cannot be cropped to 9×8"):
        images.crop(torch.zeros(1, 3, 8, 8), (9, 8))

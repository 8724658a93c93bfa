"""Arrays and tensors come out right, and those that are no pictures are told what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from picture_files import alpha_of, levels, noise, refusal

from vaekit import images


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (2, 4, 5, 3)])
@pytest.mark.parametrize(
    ("dtype", "white"), [("u1", 255), ("u2", 65535), (">u2", 65535), ("f4", 1), ("f8", 1), ("f2", 1)]
)
def test_arrays_of_every_kind_are_scaled_to_minus_one_to_one(shape: tuple[int, ...], dtype: str, white: int) -> None:
    unit = np.random.default_rng(1).random(shape)
    array = (unit * white).round().astype(dtype) if white > 1 else unit.astype(dtype)
    batch = array.astype(np.float64).reshape(2 if len(shape) == 4 else 1, 4, 5, -1) / white
    pixels = images.read(array).pixels
    assert np.allclose(
        pixels.permute(0, 2, 3, 1).numpy(), np.broadcast_to(batch * 2 - 1, (len(batch), 4, 5, 3)), atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [2, 4])
def test_the_last_of_two_or_four_channels_is_alpha(dtype: str, channels: int) -> None:
    stored = noise(4, 5, channels)
    array = {"u1": stored, "u2": stored.astype(np.uint16) * 257, "f4": (stored / 255).astype(np.float32)}[dtype]
    for given_array, count in ((array, 1), (np.stack([array, array]), 2)):
        read = images.read(given_array)
        assert read.pixels.shape == (count, 3, 4, 5)
        assert np.array_equal(alpha_of(read), stored[..., -1])
        assert np.array_equal(levels(read).round()[..., 0], stored[..., 0])


def test_arrays_of_any_memory_layout_are_read_and_never_written_to() -> None:
    array = noise(6, 8)[::-1, ::2]
    before = array.copy()
    array.flags.writeable = False
    read = images.read(array)
    read.pixels.zero_()
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), object), "object"),
        (np.zeros((4, 4), np.uint32), "uint32"),
        (np.zeros((4, 4, 5), np.uint8), "[4, 4, 5]"),
        (np.zeros(4, np.uint8), "[4]"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), "[1, 1, 4, 4, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "[0, 4, 3]"),
        (np.full((2, 2, 3), 255.0), "from 255 to 255"),
        (np.array([[-0.5, 1.5]]), "from -0.5 to 1.5"),
        (np.array([[0.5, np.inf]]), "inf"),
        (np.array([[0.5, np.nan]]), "NaN"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused_with_what_was_found(array: np.ndarray, told: str) -> None:
    assert told in refusal(array)


def test_float_tensors_are_taken_as_they_are() -> None:
    tensor = torch.rand(2, 3, 4, 5) * 2 - 1
    read = images.read(tensor)
    assert torch.equal(read.pixels, tensor) and read.pixels.data_ptr() != tensor.data_ptr()
    assert torch.equal(images.read(tensor[0]).pixels, tensor[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_float_types_become_float32(dtype: torch.dtype) -> None:
    tensor = (torch.rand(3, 4, 5) * 2 - 1).to(dtype)
    assert torch.equal(images.read(tensor).pixels[0], tensor.float())


def test_uint8_tensors_go_from_0_to_255() -> None:
    stored = noise(4, 5)
    assert np.array_equal(levels(images.read(torch.tensor(stored).permute(2, 0, 1))).round(), stored)


def test_gradients_are_left_behind() -> None:
    assert not images.read(torch.zeros(3, 2, 2, requires_grad=True)).pixels.requires_grad


def test_rounding_beyond_the_range_is_clamped() -> None:
    assert images.read(torch.full((3, 2, 2), 1.0005)).pixels.max() == 1
    assert images.read(np.full((2, 2), -1e-6)).pixels.min() == -1


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.full((3, 2, 2), 255.0), "from 255 to 255"),
        (torch.tensor([-1.5, 0.5, 0.0]).view(3, 1, 1), "[-1, 1]"),
        (torch.full((3, 2, 2), float("nan")), "NaN"),
        (torch.zeros(3, 2, 2, dtype=torch.bool), "bool"),
        (torch.zeros(3, 2, 2, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "int64"),
        (torch.zeros(1, 4, 8, 8), "[1, 4, 8, 8]"),
        (torch.zeros(2, 2, 3), "[2, 2, 3]"),
        (torch.zeros(0, 3, 2, 2), "[0, 3, 2, 2]"),
        (torch.zeros(3, 2, 2).to_sparse(), "dense"),
        (torch.zeros(3, 2, 2, device="meta"), "holds data"),
    ],
)
def test_tensors_that_are_no_pictures_are_refused_with_what_was_found(tensor: torch.Tensor, told: str) -> None:
    assert told in refusal(tensor)

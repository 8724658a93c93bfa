"""Latents: what fits together, and what is refused."""

from __future__ import annotations

import pytest
import torch

from vaekit.errors import LatentsError
from vaekit.families import family
from vaekit.latents import Latents


def latents(batch: int = 1, **changes: object) -> Latents:
    parts = {"tensor": torch.randn(batch, 4, 3, 2), "family": family("sd1"), "size": (16, 24)} | changes
    return Latents(**parts)  # type: ignore[arg-type]


def test_the_last_cells_may_reach_beyond_the_picture() -> None:
    assert latents(size=(9, 17)).size == (9, 17)


@pytest.mark.parametrize("size", [(8, 24), (17, 24), (16, 25), (16, 16), (0, 24), (24, 16)])
def test_a_size_of_other_cells_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(LatentsError, match="has latents of"):
        latents(size=size)


@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 4, 0, 2), (0, 4, 3, 2), (1, 1, 4, 3, 2)])
def test_latents_are_four_dimensional_and_hold_something(shape: tuple[int, ...]) -> None:
    with pytest.raises(LatentsError, match="batch, channels, height, width"):
        latents(tensor=torch.zeros(shape))


def test_channels_of_another_family_are_refused() -> None:
    with pytest.raises(LatentsError, match="sd1 have 4 channels, not 16"):
        latents(tensor=torch.zeros(1, 16, 3, 2))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float8_e4m3fn, torch.complex64, torch.bool])
def test_dtypes_without_arithmetic_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(LatentsError, match="16 to 64 bits"):
        latents(tensor=torch.zeros(1, 4, 3, 2).to(dtype))


def test_alpha_has_the_size_of_the_pictures_and_eight_bits() -> None:
    assert latents(alpha=torch.zeros(1, 1, 24, 16, dtype=torch.uint8)).alpha is not None
    with pytest.raises(LatentsError, match="alpha"):
        latents(alpha=torch.zeros(1, 1, 16, 24, dtype=torch.uint8))
    with pytest.raises(LatentsError, match="uint8"):
        latents(alpha=torch.zeros(1, 1, 24, 16))


def test_an_index_or_a_slice_gives_latents_with_their_alpha() -> None:
    batch = latents(3, alpha=torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 24, 16))
    for index in (0, 2, -1, -3):
        part = batch[index]
        assert torch.equal(part.tensor[0], batch.tensor[index])
        assert part.alpha is not None and bool((part.alpha == index % 3).all())
    assert len(batch[1:]) == 2


def test_latents_are_iterated_over_picture_by_picture() -> None:
    batch = latents(3)
    parts = list(batch)
    assert len(parts) == 3
    assert torch.equal(torch.cat([part.tensor for part in parts]), batch.tensor)


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_outside_of_the_batch_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        latents(3)[index]

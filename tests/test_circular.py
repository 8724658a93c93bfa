"""A VAE with circular padding: nothing is special about the edges of its pictures."""

from __future__ import annotations

import pytest
import torch

import vaekit
from vaekit.errors import OptionError


def test_a_rolled_picture_has_rolled_latents_and_back() -> None:
    round_, plain = (vaekit.load("mini", padding=padding, dtype="float32") for padding in ("circular", None))  # type: ignore[arg-type]
    pixels = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rolled = torch.roll(pixels, (16, 24), (2, 3))
    for vae, tolerance in ((round_, 1e-4), (plain, None)):
        moved = torch.roll(vae.encode(pixels).tensor, (2, 3), (2, 3))
        back = torch.roll(vae.decode(vae.encode(pixels), output="tensor"), (16, 24), (2, 3))
        there = (vae.encode(rolled).tensor - moved).abs().max()
        again = (vae.decode(moved, output="tensor") - back).abs().max()
        if tolerance is not None:
            assert there < tolerance and again < tolerance
        else:
            assert there > 1e-2 and again > 1e-2


def test_a_tiny_vae_has_no_such_choice() -> None:
    with pytest.raises(OptionError, match="tiny"):
        vaekit.load("mini-tiny", padding="circular")

"""The bundled VAE is what its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit import assets


@pytest.fixture(scope="module")
def mini() -> vaekit.VAE:
    return vaekit.load("mini")


def test_mini_has_the_shapes_of_stable_diffusions_latents(mini: vaekit.VAE) -> None:
    latents = mini.encode(Image.new("RGB", (128, 64)))
    assert latents.tensor.shape == (1, 4, 8, 16)
    assert mini.family.name == "mini"


def test_mini_is_at_most_12_megabytes() -> None:
    files = [path for path in assets.model_folder("mini").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000


def test_mini_s_latents_have_unit_spread(mini: vaekit.VAE) -> None:
    values = torch.cat([mini.encode(photo).tensor.flatten() for photo in assets.sample_photos()])
    assert values.std().item() == pytest.approx(1.0, abs=0.25)  # four photos; the card has the training pictures


def test_mini_brings_colours_back(mini: vaekit.VAE) -> None:
    """Each of the primary and secondary colours, large and smooth, is nearer to itself than to any other."""
    colours = np.array([[220, 40, 40], [40, 200, 60], [40, 70, 220], [230, 220, 40], [40, 210, 220], [210, 50, 210]])
    chart = np.kron(colours.reshape(2, 3, 3), np.ones((96, 96, 1))).astype(np.uint8)
    decoded = np.asarray(mini.decode(mini.encode(chart)), dtype=np.float64)
    for i, colour in enumerate(colours):
        row, column = divmod(i, 3)
        patch = decoded[96 * row + 24 : 96 * row + 72, 96 * column + 24 : 96 * column + 72].mean(axis=(0, 1))
        nearest = int(np.argmin(np.square(colours - patch).sum(axis=1)))
        assert nearest == i, (colour, patch)


def test_mini_reaches_24_decibels_on_the_measuring_photos(mini: vaekit.VAE, photos: list[Path]) -> None:
    measured = [vaekit.measure(Image.open(photo), mini.decode(mini.encode(photo))) for photo in photos]
    assert np.mean([quality.psnr for quality in measured]) >= 24.0


def test_diffusers_loads_mini_and_gives_the_same_picture(mini: vaekit.VAE) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(assets.model_folder("mini")).eval()
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        scaled = theirs.encode(x).latent_dist.mean * theirs.config.scaling_factor
        picture = theirs.decode(scaled / theirs.config.scaling_factor).sample
    latents = mini.encode(x)
    assert torch.allclose(latents.tensor, scaled, atol=1e-4)
    assert torch.allclose(mini.decode(latents, output="tensor"), picture.clamp(-1, 1), atol=1e-4)

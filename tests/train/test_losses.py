"""The terms of the loss, against scikit-image and by what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from vaekit.train import losses
from vaekit.train.muon import orthogonalise
from vaekit.train.weights import Weights


def test_lab_is_that_of_scikit_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = losses.lab(x)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - rgb2lab(pixels)).max() < 0.02


def test_an_error_of_colour_costs_more_than_one_of_grey() -> None:
    x = torch.zeros(1, 3, 4, 4)
    grey = x + 0.1
    colour = x + torch.tensor([0.1, -0.1, 0.1]).view(1, 3, 1, 1)
    assert losses.colour(colour, x) > losses.colour(grey, x)
    plain = Weights(colour=0.0)
    assert torch.allclose(losses.reconstruction(colour, x, plain), losses.reconstruction(grey, x, plain))


def test_a_large_scale_sees_a_tint_and_not_detail() -> None:
    x = torch.zeros(1, 3, 32, 32)
    checks = x + 0.1 * (torch.arange(32) % 2 * 2 - 1)
    tint = x + 0.1
    assert losses.colour_difference(tint, x, [32]) > 20 * losses.colour_difference(checks, x, [32])
    assert losses.colour_difference(checks, x, [1]) > 20 * losses.colour_difference(checks, x, [32])
    assert losses.colour_difference(tint, x, [4096]) == losses.colour_difference(tint, x, [32]), "of the whole picture"


def test_smoothness_counts_the_steps_of_what_comes_out_whatever_the_picture() -> None:
    x = torch.zeros(1, 3, 8, 8)
    stripes = x + 0.1 * (torch.arange(8) % 2 * 2 - 1)
    assert losses.roughness(stripes).item() == pytest.approx(0.04)
    assert losses.roughness(x + 0.7) == 0
    soft, plain = Weights(smooth=2.0), Weights()
    more = losses.reconstruction(stripes, stripes, soft) - losses.reconstruction(stripes, stripes, plain)
    assert more.item() == pytest.approx(0.08)


@pytest.mark.parametrize("side", [32, 128])
def test_the_rim_counts_each_edge_alike_in_pictures_of_any_size(side: int) -> None:
    x = torch.zeros(1, 3, side, side)
    inside, framed = x.clone(), x.clone()
    inside[..., 4:-4, 4:-4] = 0.5
    framed[..., -4:] = 0.5
    assert losses.rim(inside, x) == 0
    assert losses.rim(framed, x) == losses.rim(framed.mT, x) == losses.rim(framed.flip(-1), x)
    assert losses.rim(framed, x).item() == pytest.approx(0.25 / 4 * (1 + 8 / side))
    more = losses.reconstruction(framed, x, Weights(rim=2.0)) - losses.reconstruction(framed, x, Weights())
    assert more.item() == pytest.approx(2 * losses.rim(framed, x).item())


def test_the_gradient_is_finite_on_black_white_and_beyond() -> None:
    x = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.3]).view(1, 1, 1, 5).expand(1, 3, 4, 5).clone().requires_grad_()
    losses.colour_difference(x, torch.zeros_like(x), [1, 2]).backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_the_perceptual_distance_grows_with_blur() -> None:
    from vaekit import assets, images

    x = images.read(assets.sample_photos()[0]).pixels[..., :128, :128]
    features = losses.Features()
    blurred = [torch.nn.functional.avg_pool2d(x, k, 1, k // 2)[..., :128, :128] for k in (3, 7)]
    near, far = (features.distance(b, x).item() for b in blurred)
    assert features.distance(x, x).item() == pytest.approx(0, abs=1e-6)
    assert 0 < near < far


@pytest.mark.parametrize("shape", [(8, 30), (30, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5
    assert values.max() < 1.5

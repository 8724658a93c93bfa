"""A network that begins as the best linear code is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL
from vaekit.train.principal import principal

CONFIG = KLConfig(
    latent_channels=4,
    encoder_channels=(16, 48, 64),
    decoder_channels=(16, 48, 64),
    encoder_blocks=1,
    decoder_blocks=1,
    norm_groups=4,
)
CHANNELS = 8


def pictures(count: int, seed: int) -> Tensor:
    """Smooth ones with some noise, [count, 3, 64, 64], for which few numbers tell most of a block."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=generator) * 2 - 1
    smooth = interpolate(coarse, size=(64, 64), mode="bicubic", align_corners=True)
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(-1, 1)


def error(code: Tensor, blocks: Tensor) -> float:
    """Mean squared error of the best linear decoding of a code [N, C] to blocks [N, K]."""
    design = torch.cat([code, torch.ones(len(code), 1)], 1)
    return float((design @ torch.linalg.lstsq(design, blocks).solution - blocks).square().mean())


def rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.fixture(scope="module")
def start() -> KL:
    torch.manual_seed(0)
    return KL(CONFIG).eval()


@torch.no_grad()
def test_the_encoder_begins_nearly_as_good_as_principal_components(start: KL) -> None:
    torch.manual_seed(1)
    model, unseen = principal(start, CHANNELS, pictures(24, 1)), pictures(8, 2)
    blocks = rows(pixel_unshuffle(pixel_unshuffle(unseen, 2), 2))
    vectors = torch.linalg.eigh(blocks.T.cov()).eigenvectors
    best = error(blocks @ vectors[:, -CHANNELS:], blocks)
    moments = model.moments(unseen)
    assert best <= error(rows(moments.mean), blocks) < 1.5 * best
    assert error(rows(start.moments(unseen).mean), blocks) > 3 * best
    assert moments.mean.std() == pytest.approx(1, abs=0.3)
    assert torch.allclose(moments.logvar, torch.tensor(-6.0), atol=1e-3)


@torch.no_grad()
def test_the_decoder_is_that_of_the_start_behind_another_first_layer(start: KL) -> None:
    model = principal(start, CHANNELS, pictures(8, 1))
    ours, theirs = model.decoder.state_dict(), start.decoder.state_dict()
    same = [name for name in theirs if torch.equal(ours[name], theirs[name])] if ours.keys() == theirs.keys() else []
    assert set(theirs) - set(same) == {"conv_in.weight", "conv_in.bias"}


def test_networks_without_room_for_the_code_are_refused(start: KL) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        principal(start, 40, pictures(1, 1))

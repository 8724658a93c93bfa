"""The same random weights in diffusers' classes give the same moments and the same picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor, nn

from vaekit.checkpoints.read import read
from vaekit.networks.kl import KL

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """Arguments of the diffusers class; published widths are kept where a test stays quick, else the shape only."""

    name: str
    arguments: dict[str, Any]
    diffusers_class: type[nn.Module] = AutoencoderKL
    reflect: bool = False
    sizes: tuple[tuple[int, int], ...] = ((32, 48),)


SD = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
SMALL = {"block_out_channels": (32, 64, 64, 96), "layers_per_block": 2}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}

CASES = [
    Case("sd1, sd2 and sdxl", {**SD, "latent_channels": 4}),
    Case("sd3 and flux1", {**SD, **NO_QUANT, "latent_channels": 16}),
    Case("flux2", {**SD, "latent_channels": 32}, AutoencoderKLFlux2),
    Case(
        "flux2 with a narrower decoder",
        {**SMALL, "latent_channels": 32, "decoder_block_out_channels": (32, 32, 64, 64)},
        AutoencoderKLFlux2,
    ),
    Case("the x4 upscaler", {"block_out_channels": (64, 128, 128), "layers_per_block": 2, "latent_channels": 4}),
    Case("mini", {"block_out_channels": (32, 64, 128, 160), "layers_per_block": 1, "latent_channels": 4}),
    Case("other norm groups", {"block_out_channels": (12, 24), "norm_num_groups": 6, "latent_channels": 3}),
    Case("no attention", {**SMALL, "latent_channels": 4, "mid_block_add_attention": False}),
    Case("an EQ-VAE's reflect padding", {**SMALL, "latent_channels": 4}, reflect=True, sizes=((64, 48), (16, 24))),
]


def build(case: Case) -> nn.Module:
    torch.manual_seed(0)
    stages = len(case.arguments["block_out_channels"])
    model = case.diffusers_class(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        **case.arguments,
    ).eval()
    for parameter in model.parameters():  # norms start at 1 and 0, which would hide them mixed up
        parameter.data += 0.02 * torch.randn_like(parameter)
    if isinstance(model, AutoencoderKLFlux2):
        model.bn.running_mean.normal_()
        model.bn.running_var.uniform_(0.5, 3.0)
    if case.reflect:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
                module.padding_mode = "reflect"
    return model.requires_grad_(False)


def load_ours(model: nn.Module, folder: Path, *, reflect: bool) -> KL:
    """By way of the disk: what diffusers saves is what vaekit reads."""
    model.save_pretrained(folder)
    if reflect:
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace("{", '{"padding_mode": "reflect",', 1))
    weights = read(folder)
    ours = KL(weights.identity.config)  # type: ignore[arg-type]
    ours.load_state_dict(weights.state)
    return ours.eval().requires_grad_(False)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_moments_and_picture_are_those_of_diffusers(case: Case, tmp_path: Path) -> None:
    theirs = build(case)
    ours = load_ours(theirs, tmp_path, reflect=case.reflect)
    for height, width in case.sizes:
        x = torch.rand(1, 3, height, width) * 2 - 1
        posterior = theirs.encode(x).latent_dist
        moments = ours.moments(x)
        assert moments.logvar is not None
        assert difference(moments.mean, posterior.mean) < TOLERANCE
        assert difference(moments.logvar, posterior.logvar) < TOLERANCE
        assert posterior.mean.std() > 0.01
        z = torch.randn_like(moments.mean)
        assert difference(ours.decode(z), theirs.decode(z).sample) < TOLERANCE


def test_flux2_is_folded_and_whitened_as_its_pipeline_does(tmp_path: Path) -> None:
    from diffusers import Flux2Pipeline

    theirs = build(next(case for case in CASES if case.name == "flux2 with a narrower decoder"))
    ours = load_ours(theirs, tmp_path, reflect=False)
    raw = torch.randn(2, 32, 6, 8)
    patched = Flux2Pipeline._patchify_latents(raw)
    mean, var = (statistic.view(1, -1, 1, 1) for statistic in (theirs.bn.running_mean, theirs.bn.running_var))
    expected = (patched - mean) / torch.sqrt(var + theirs.config.batch_norm_eps)
    assert difference(ours.fold(raw), expected) < 1e-6
    assert difference(ours.unfold(ours.fold(raw)), raw) < 1e-5


def test_a_sample_has_the_posterior_s_mean_and_spread() -> None:
    from vaekit.networks.moments import Moments

    moments = Moments(torch.full((1, 4, 64, 64), 3.0), torch.full((1, 4, 64, 64), -1.0))
    drawn = moments.sample(torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(torch.tensor(-0.5).exp().item(), abs=0.02)
    assert torch.equal(drawn, moments.sample(torch.Generator().manual_seed(0)))


def test_kl_is_that_of_diffusers() -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from vaekit.networks.moments import Moments

    parameters = torch.randn(2, 8, 5, 5)
    expected = DiagonalGaussianDistribution(parameters).kl()
    assert torch.allclose(Moments.from_channels(parameters).kl(), expected, rtol=1e-5)

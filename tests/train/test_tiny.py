"""Training a tiny VAE for another's latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train.conftest import CPU

import vaekit
from vaekit.errors import OptionError
from vaekit.networks.config import TinyConfig
from vaekit.train.run import Phase
from vaekit.train.tiny import TinyRecipe, TinyRun
from vaekit.train.vaes import train_vae

RECIPE = TinyRecipe(
    start="mini",
    network=TinyConfig(4, 8, (0, 1, 1, 1), (1, 1, 1, 0)),
    phases=(Phase(steps=120, crops=((32, 2),)),),
    warmup=1,
)


def test_both_halves_learn() -> None:
    run = TinyRun(RECIPE, CPU)
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(coarse, scale_factor=8)
    steps = [run.train_step(x * 2 - 1) for _ in range(120)]
    assert steps[-1]["encoding"] < 0.8 * steps[0]["encoding"]
    assert steps[-1]["psnr"] > steps[0]["psnr"] + 2


def test_a_teacher_of_other_latents_is_refused() -> None:
    with pytest.raises(OptionError, match="16 channels"):
        TinyRun(RECIPE.model_copy(update={"network": TinyConfig(16, 8, (1, 1, 1, 1), (1, 1, 1, 1))}), CPU)


def test_what_is_written_is_a_tiny_vae_of_the_teachers_family_and_what_diffusers_reads(
    pictures: Path, tmp_path: Path
) -> None:
    from diffusers import AutoencoderTiny

    settings = tmp_path / "recipe.toml"
    settings.write_text(
        'kind = "tiny"\nstart = "mini"\nsmallest = 32\nwarmup = 1\n[network]\nlatent_channels = 4\nwidth = 8\n'
        "encoder_blocks = [0, 1, 1, 1]\ndecoder_blocks = [1, 1, 1, 0]\n[[phases]]\nsteps = 2\ncrops = [[32, 2]]\n"
    )
    train_vae(settings, [(pictures, 1.0)], tmp_path / "run", tmp_path / "tiny", device="cpu")
    vae = vaekit.load(tmp_path / "tiny", family="mini")
    assert (vae.config.kind, vae.config.decoder_blocks) == ("tiny", (1, 1, 1, 0))
    theirs, told = AutoencoderTiny.from_pretrained(tmp_path / "tiny", output_loading_info=True)
    assert not any(told.values())
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.decode(z).sample.clamp(-1, 1)
    assert torch.allclose(vae.decode(z, output="tensor"), expected, atol=1e-4)

"""The same random weights in diffusers' AutoencoderTiny give the same latents and the same picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from vaekit.checkpoints.read import read
from vaekit.networks.tiny import Tiny


@pytest.mark.parametrize("channels", [4, 16], ids=["taesd and taesdxl", "taesd3 and taef1"])
def test_latents_and_picture_are_those_of_autoencoder_tiny(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = AutoencoderTiny(latent_channels=channels).eval().requires_grad_(False)
    theirs.save_pretrained(tmp_path / "taesd")
    weights = read(tmp_path / "taesd")
    ours = Tiny(weights.identity.config)  # type: ignore[arg-type]
    ours.load_state_dict(weights.state)
    x = torch.rand(2, 3, 64, 40) * 2 - 1
    latents = theirs.encode(x).latents
    assert (ours.moments(x).mean - latents).abs().max() < 1e-4
    z = 3 * torch.randn_like(latents)
    assert (ours.decode(z) - theirs.decode(z).sample).abs().max() < 1e-4
    assert theirs.decode(z).sample.std() > 0.001

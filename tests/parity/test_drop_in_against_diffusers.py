"""`VAE.as_diffusers()` beside diffusers' own class with the same weights, alone and inside a pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_TINY, small_vae
from diffusers import AutoencoderKL, AutoencoderTiny

import vaekit
from vaekit import assets
from vaekit.drop_in import DropIn
from vaekit.errors import OptionError
from vaekit.families import family
from vaekit.networks.config import KLConfig

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def ours() -> DropIn:
    return vaekit.load("mini", dtype="float32").as_diffusers()


@pytest.fixture(scope="module")
def theirs() -> AutoencoderKL:
    model = AutoencoderKL.from_pretrained(assets.model_folder("mini"), torch_dtype=torch.float32)
    return model.eval().requires_grad_(False)


def pictures(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 48, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_encoding_gives_the_same_posterior_and_the_same_draw(ours: DropIn, theirs: AutoencoderKL) -> None:
    a, b = ours.encode(pictures(2)).latent_dist, theirs.encode(pictures(2)).latent_dist
    assert (a.mode() - b.mode()).abs().max() < TOLERANCE
    assert (a.std - b.std).abs().max() < TOLERANCE
    draws = [one.sample(torch.Generator().manual_seed(7)) for one in (a, b)]
    assert (draws[0] - draws[1]).abs().max() < TOLERANCE
    assert (ours.encode(pictures(), return_dict=False)[0].mode() - b.mode()[:1]).abs().max() < TOLERANCE


def test_decoding_and_the_whole_way_give_the_same_picture(ours: DropIn, theirs: AutoencoderKL) -> None:
    z = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    assert (ours.decode(z).sample - theirs.decode(z).sample).abs().max() < TOLERANCE
    assert (ours.decode(z, return_dict=False)[0] - theirs.decode(z).sample).abs().max() < TOLERANCE
    assert (ours(pictures()).sample - theirs(pictures()).sample).abs().max() < TOLERANCE


def test_the_configuration_that_pipelines_read_is_the_same(ours: DropIn, theirs: AutoencoderKL) -> None:
    for key in ("scaling_factor", "shift_factor", "latent_channels", "block_out_channels", "latents_mean"):
        assert ours.config.get(key) == theirs.config.get(key), key
    assert ours.config.scaling_factor == family("mini").scaling_factor
    assert ours.config.force_upcast is False  # vaekit repeats in float32 by itself


def test_the_result_has_the_dtype_that_was_given_and_carries_no_inference_mark(ours: DropIn) -> None:
    sample = ours.decode(torch.randn(1, 4, 2, 2).half()).sample
    assert sample.dtype == torch.float16
    sample += 1  # in place, which inference tensors refuse
    assert ours.encode(pictures().bfloat16()).latent_dist.mode().dtype == torch.bfloat16


def test_slicing_takes_pictures_one_by_one() -> None:
    drop_in = vaekit.load("mini", dtype="float32").as_diffusers()
    seen: list[int] = []
    decoder = drop_in._parts.decoder
    assert decoder is not None
    whole, run = decoder.decode, lambda z: (seen.append(len(z)), whole(z))[1]
    decoder.decode = run  # type: ignore[method-assign]
    z = torch.randn(3, 4, 2, 2)
    together = drop_in.decode(z).sample
    drop_in.enable_slicing()
    assert torch.allclose(drop_in.decode(z).sample, together, atol=1e-5)
    drop_in.disable_slicing()
    drop_in.decode(z)
    assert seen == [3, 1, 1, 1, 3]


def test_to_rebuilds_from_the_weights_as_they_were_read() -> None:
    drop_in = vaekit.load("mini", dtype="float32").as_diffusers()
    z = torch.randn(1, 4, 2, 2)
    before = drop_in.decode(z).sample
    assert drop_in.to("cpu", torch.bfloat16) is drop_in
    assert drop_in.dtype == torch.bfloat16 == next(drop_in.parameters()).dtype
    assert not torch.equal(drop_in.decode(z).sample, before)
    assert torch.equal(drop_in.float().decode(z).sample, before)
    assert drop_in.device == torch.device("cpu")


@pytest.mark.parametrize(
    "ask",
    [lambda vae: vae.enable_tiling(), lambda vae: vae.train(), lambda vae: vae.requires_grad_(True)],
    ids=["tiling", "training", "gradients"],
)
def test_what_it_does_not_do_is_refused(ours: DropIn, ask: object) -> None:
    with pytest.raises(OptionError):
        ask(ours)  # type: ignore[operator]


def test_a_tiny_vae_stands_in_for_autoencoder_tiny(tmp_path: Path) -> None:
    ours = small_vae(SMALL_TINY).as_diffusers()
    ours.save_pretrained(tmp_path)
    theirs = AutoencoderTiny.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert (ours.encode(pictures()).latents - theirs.encode(pictures()).latents).abs().max() < TOLERANCE
    z = torch.randn(1, 4, 4, 4)
    assert (ours.decode(z).sample - theirs.decode(z).sample).abs().max() < TOLERANCE
    assert ours.config.scaling_factor == 1.0


def test_a_saved_one_is_read_by_diffusers_and_by_vaekit(ours: DropIn, tmp_path: Path) -> None:
    ours.save_pretrained(tmp_path)
    theirs = AutoencoderKL.from_pretrained(tmp_path)
    assert theirs.config.scaling_factor == ours.config.scaling_factor
    assert set(theirs.state_dict()) == set(ours.state_dict())
    assert vaekit.load(tmp_path).fingerprint == vaekit.load("mini").fingerprint


def test_flux2s_vae_is_refused() -> None:
    config = KLConfig(8, (32, 32), (32, 32), encoder_blocks=1, decoder_blocks=2, patch_size=2)
    folded = family("flux2").model_copy(update={"latent_channels": 32, "downscale": 4, "kl": None, "preview": None})
    with pytest.raises(OptionError, match="fold"):
        small_vae(config, of=folded).as_diffusers()


def test_a_pipeline_draws_the_same_picture_with_either(theirs: AutoencoderKL, ours: DropIn) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
    )
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    )
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = StableDiffusionPipeline(
        theirs, text, CLIPTokenizer(), unet, scheduler, safety_checker=None, feature_extractor=None
    )
    pipe.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        told = {"prompt_embeds": torch.ones(1, 8, 32), "negative_prompt_embeds": torch.zeros(1, 8, 32)}
        generator = torch.Generator().manual_seed(0)
        return np.asarray(
            pipe(**told, height=32, width=32, num_inference_steps=2, generator=generator, output_type="np").images
        )

    before = draw()
    pipe.vae = ours
    assert np.abs(draw() - before).max() < TOLERANCE
    pipe.to(torch.bfloat16)
    assert pipe.vae.dtype == torch.bfloat16
    pipe.vae.to(torch.float32)

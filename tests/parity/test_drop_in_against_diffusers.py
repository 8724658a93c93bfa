"""`VAE.as_diffusers()` beside diffusers' own class with the same weights, alone and inside a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_TINY, small_vae
from diffusers import AutoencoderKL, AutoencoderTiny

import vaekit
from vaekit import assets
from vaekit.drop_in import DropIn
from vaekit.engine.half import Direction, Half
from vaekit.errors import OptionError, ResourceError
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
    whole, run = decoder.run, lambda shape, *rest: (seen.append(shape[0]), whole(shape, *rest))[1]
    decoder.run = run  # type: ignore[method-assign]
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
    [lambda vae: vae.train(), lambda vae: vae.requires_grad_(True)],
    ids=["training", "gradients"],
)
def test_what_it_does_not_do_is_refused(ours: DropIn, ask: object) -> None:
    with pytest.raises(OptionError):
        ask(ours)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["KL", "tiny"])
@pytest.mark.parametrize("slicing", [False, True])
def test_tiling_goes_in_strips_and_changes_nothing(
    kind: str, slicing: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = vaekit.load("mini" if kind == "KL" else "mini-tiny", dtype="float32").as_diffusers()
    z, x = torch.randn(2, 4, 48, 32), torch.rand(2, 3, 384, 256) * 2 - 1
    before = vae.decode(z).sample, _mode(vae.encode(x))
    strips: list[Direction] = []
    real = Half._run_strips
    monkeypatch.setattr(Half, "_run_strips", lambda self, *a: (strips.append(self.direction), real(self, *a))[1])
    if slicing:
        vae.enable_slicing()
    vae.memory = "32MiB"
    with caplog.at_level("INFO", "vaekit"):
        vae.enable_tiling()
    (told,) = caplog.messages
    assert "exact" in told and "no tiles" in told
    after = vae.decode(z).sample, _mode(vae.encode(x))
    assert strips == ["decode"] * 2 + ["encode"] * 2
    assert all((a - b).abs().max() < 2e-4 for a, b in zip(after, before, strict=True))
    vae.disable_tiling()
    assert torch.equal(vae.decode(z).sample, before[0]) or slicing
    assert len(strips) == 4 and not vae.use_tiling


def _mode(encoded: Any) -> torch.Tensor:
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()  # type: ignore[no-any-return]


def test_tiling_by_default_takes_half_of_what_is_free(ours: DropIn, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = vaekit.load("mini", dtype="float32").as_diffusers()
    vae.enable_tiling()
    z = torch.randn(1, 4, 6, 8)
    assert torch.equal(vae.decode(z).sample, ours.decode(z).sample)
    monkeypatch.setattr("vaekit.engine.strips.budget.free_bytes", lambda device: 1 << 12)
    with pytest.raises(ResourceError, match="half of what is free"):
        vae.decode(z)
    vae.memory = "1KiB"
    with pytest.raises(OptionError, match="the least that does"):
        vae.decode(z)


def test_sizes_of_tiles_are_told_not_to_be_used(caplog: pytest.LogCaptureFixture) -> None:
    vae = vaekit.load("mini").as_diffusers()
    with caplog.at_level("INFO", "vaekit"):
        vae.enable_tiling(tile_sample_min_height=256)
        vae.enable_tiling(256)
    assert all("given are not used" in told for told in caplog.messages) and len(caplog.messages) == 2
    vae.enable_tiling(False)
    assert not vae.use_tiling
    with pytest.raises(OptionError, match="seamless"):
        vaekit.load("mini", padding="circular").as_diffusers().enable_tiling()


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

"""The same latents and pictures as diffusers' own pipelines draw, from the same checkpoint and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from generate.models import SIDE, write_folder

from vaekit import assets
from vaekit.generate.architectures import clip_tokenizer
from vaekit.generate.delivery import decode
from vaekit.generate.painter import Painter
from vaekit.generate.prompts import listen
from vaekit.generate.samplers import make
from vaekit.generate.settings import Change, Settings

TOLERANCE = 1e-3
LEVELS = 1
"""Of 255: rounding falls to one side or the other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("parity") / "small-sd")


@pytest.fixture(scope="module")
def painter(folder: Path) -> Painter:
    return Painter.open(str(folder), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    vae = AutoencoderKL.from_pretrained(assets.model_folder("mini"), torch_dtype=torch.float32)
    loaded = StableDiffusionPipeline.from_pretrained(
        folder, vae=vae, safety_checker=None, feature_extractor=None, torch_dtype=torch.float32
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def theirs(pipe: Any, painter: Painter, settings: Settings, seeds: list[int], **more: Any) -> Any:
    steps = more.pop("steps", settings.steps)
    pipe.scheduler = make(*settings.chosen(), painter.model.scheduler, steps, torch.device("cpu"))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(
        settings.prompt,
        negative_prompt=settings.negative or None,
        num_inference_steps=settings.steps,
        guidance_scale=settings.cfg,
        num_images_per_prompt=len(seeds),
        generator=generators,
        **more,
    ).images


@pytest.mark.parametrize(
    "sampler", ["DDIM", "Euler", "Euler a", "Heun", "DPM2 a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "UniPC", "LCM"]
)
def test_txt2img_draws_what_diffusers_draws(painter: Painter, pipe: Any, sampler: str) -> None:
    """In a batch, each picture as diffusers draws it alone; its own batches differ in the last bits from that."""
    settings = Settings("a red apple", "blue", steps=4, seed=5, sampler=sampler, batch_size=2, schedule="Automatic")
    ours = torch.cat([one.latents.tensor for one in painter.txt2img(settings)])
    size = {"height": SIDE, "width": SIDE, "output_type": "latent"}
    expected = torch.cat([theirs(pipe, painter, settings, [seed], **size) for seed in (5, 6)])
    assert (ours - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_the_decoded_picture_is_that_of_diffusers(painter: Painter, pipe: Any) -> None:
    settings = Settings("a red apple", steps=4, seed=5, sampler="DDIM")
    ours = np.asarray(decode(next(iter(painter.txt2img(settings)))), np.int16)
    expected = theirs(pipe, painter, settings, [5], height=SIDE, width=SIDE, output_type="pil")[0]
    assert np.abs(ours - np.asarray(expected, np.int16)).max() <= LEVELS


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a", "DPM++ 2M"])
def test_img2img_takes_the_same_steps(painter: Painter, pipe: Any, sampler: str, tmp_path: Path) -> None:
    """Which encodes to a draw from the posterior; given the mean, it draws the same."""
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    settings = Settings("a red apple", steps=6, seed=5, sampler=sampler)
    ours = next(iter(painter.img2img(Change(tmp_path / "picture.png", 0.5), settings))).latents.tensor
    again = StableDiffusionImg2ImgPipeline(**pipe.components)
    again.set_progress_bar_config(disable=True)
    start = painter.vae.encode(tmp_path / "picture.png").tensor
    expected = theirs(again, painter, settings, [5], image=start / 1.0, strength=0.5, output_type="latent")
    assert (ours - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_a_small_sdxl_draws_what_diffusers_draws(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    small = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 49408}
    clip = {"bos_token_id": 49406, "eos_token_id": 49407, "max_position_embeddings": 77}
    texts = (
        CLIPTextModel(CLIPTextConfig(hidden_size=32, **small, **clip)),
        CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=64, projection_dim=32, **small, **clip)),
    )
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    vae = AutoencoderKL.from_pretrained(assets.model_folder("mini"), torch_dtype=torch.float32)
    pipe = StableDiffusionXLPipeline(
        vae, texts[0], texts[1], clip_tokenizer("<|endoftext|>"), clip_tokenizer("!"), unet, scheduler
    )
    pipe.save_pretrained(tmp_path / "small-xl")
    pipe.set_progress_bar_config(disable=True)
    painter = Painter.open(str(tmp_path / "small-xl"), vae="mini", dtype="float32", device="cpu")
    assert painter.model.is_xl
    for negative in ("", "blue"):
        settings = Settings("a photo of a cat", negative, steps=3, seed=5, sampler="Euler")
        ours = next(iter(painter.txt2img(settings))).latents.tensor
        size = {"height": SIDE, "width": SIDE, "original_size": (SIDE, SIDE), "target_size": (SIDE, SIDE)}
        expected = theirs(pipe, painter, settings, [5], **size, output_type="latent")
        assert (ours - expected).abs().max() < TOLERANCE * expected.abs().max(), negative
    plain, stronger = (listen(painter.model, f"a ({word}) cat", "")[0] for word in ("big:1", "big:1.4"))
    for part in (slice(0, 32), slice(32, 96)):  # each text encoder's mean is restored by itself
        assert torch.allclose(plain.states[..., part].mean(), stronger.states[..., part].mean(), atol=1e-5)
        assert not torch.equal(plain.states[..., part], stronger.states[..., part])
    assert plain.pooled is not None and stronger.pooled is not None and torch.equal(plain.pooled, stronger.pooled)

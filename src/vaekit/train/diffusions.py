"""From a recipe and pictures with names to a text-to-image model on disk, in the layout of diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaekit.engine.placement import place
from vaekit.loading import load
from vaekit.train.captions import phrase
from vaekit.train.diffusion import SCHEDULER, DiffusionRecipe, DiffusionRun, LatentPictures, TextToLatents
from vaekit.train.loop import Sheet, train
from vaekit.train.run import Run

SHEET_STEPS = 20
SHEET_GUIDANCE = 4.0
SHEET_SIDE = 6


def train_diffusion(recipe: Path, data: Path, folder: Path, out: Path, *, device: str = "auto") -> None:
    """Train by a recipe of kind "diffusion" and write model_index.json and the parts beside it.

    data: pictures with captions.jsonl (captions.py). folder: state, log and
    sheets; the same call goes on there. The VAE is not copied: it is the
    recipe's `start`. Raises FileError, OptionError, PictureError, OutputError,
    NumericsError.
    """
    settings = DiffusionRecipe.read(recipe)
    pictures = LatentPictures(data, settings, folder)
    run = DiffusionRun(settings, pictures.tokenizer, place(device).device)
    train(run, pictures.draw, folder, sheet=prompt_sheet(pictures))
    write_pipeline(run, out)


def prompt_sheet(pictures: LatentPictures) -> Sheet:
    """Pictures for prompts of the training set, the same ones each time."""
    rng = np.random.default_rng(0)
    picks = rng.permutation(pictures.originals)[: SHEET_SIDE**2]
    prompts = [phrase(pictures.entries[i], rng, recoloured=False) for i in picks]

    def draw(run: Run, path: Path) -> dict[str, float]:
        assert isinstance(run, DiffusionRun)
        drawn = sample(run.average, run.recipe, pictures.tokens(prompts), pictures.tokens([""] * len(prompts)))
        sheet = Image.new("RGB", (SHEET_SIDE * drawn[0].width, SHEET_SIDE * drawn[0].height), "white")
        for number, picture in enumerate(drawn):
            row, column = divmod(number, SHEET_SIDE)
            sheet.paste(picture, (column * picture.width, row * picture.height))
        sheet.save(path)
        return {}

    return draw


@torch.no_grad()
def sample(model: TextToLatents, recipe: DiffusionRecipe, told: torch.Tensor, blank: torch.Tensor) -> list[Image.Image]:
    """Pictures for tokens [B, length], by DDIM with classifier-free guidance against `blank`."""
    from diffusers import DDIMScheduler

    vae, scheduler = load(recipe.start, dtype="float32"), DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(SHEET_STEPS)
    side = recipe.size // vae.family.downscale
    x = torch.randn(len(told), vae.family.latent_channels, side, side, generator=torch.Generator().manual_seed(0))
    device = next(model.parameters()).device
    tokens = torch.cat([told, blank]).to(device)
    for step in scheduler.timesteps:
        steps = step.expand(2 * len(x)).to(device)
        with_prompt, without = model(torch.cat([x, x]).to(device), steps, tokens).float().cpu().chunk(2)
        x = scheduler.step(without + SHEET_GUIDANCE * (with_prompt - without), step, x).prev_sample
    decoded = vae.decode(x)
    return decoded if isinstance(decoded, list) else [decoded]


def write_pipeline(run: DiffusionRun, out: Path) -> None:
    """model_index.json, unet, text_encoder, tokenizer and scheduler, weights in float16; no VAE."""
    import json

    import diffusers
    from diffusers import DDIMScheduler

    model = run.average.cpu().half()
    model.unet.save_pretrained(out / "unet")
    model.text_encoder.save_pretrained(out / "text_encoder")
    run.tokenizer.save_pretrained(out / "tokenizer")
    DDIMScheduler(**SCHEDULER).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "_vaekit_family": load(run.recipe.start).family.name,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")

"""From a recipe and pictures with names to a text-to-image model on disk, in the layout of diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaekit import images
from vaekit.engine.placement import place
from vaekit.generate.architectures import Architecture
from vaekit.generate.models import Model
from vaekit.generate.prompts import Told
from vaekit.generate.samplers import choose, make
from vaekit.generate.sampling import Guidance, draws, noise, sample
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
        drawn = draw_each(run.average, run.recipe, pictures.tokens(prompts), pictures.tokens([""]))
        sheet = Image.new("RGB", (SHEET_SIDE * drawn[0].width, SHEET_SIDE * drawn[0].height), "white")
        for number, picture in enumerate(drawn):
            row, column = divmod(number, SHEET_SIDE)
            sheet.paste(picture, (column * picture.width, row * picture.height))
        sheet.save(path)
        return {}

    return draw


@torch.no_grad()
def draw_each(
    network: TextToLatents,
    recipe: DiffusionRecipe,
    told: torch.Tensor,
    blank: torch.Tensor,
    *,
    guidance: float = SHEET_GUIDANCE,
) -> list[Image.Image]:
    """A picture for each row of tokens [B, length], by DDIM; blank: [1, length], what guidance leads away from."""
    vae, device = load(recipe.start, dtype="float32"), next(network.parameters()).device
    architecture = Architecture("in training", "StableDiffusionPipeline", network.unet.config, (), ())
    model = Model("in training", Path(), architecture, network.unet, (), device, torch.float32, SCHEDULER)
    scheduler = make(*choose("DDIM"), SCHEDULER, SHEET_STEPS, device)
    without, *each = (Told(network.text_encoder(row[None].to(device))[0]) for row in (*blank, *told))
    side = recipe.size // vae.family.downscale
    shape = (vae.family.latent_channels, side, side)
    drawn = []
    for seed, prompt in enumerate(each):
        led, generators = Guidance(prompt, without, guidance, (recipe.size, recipe.size)), draws([seed])
        drawn.append(sample(model, scheduler, led, noise(generators, shape, model), generators).float().cpu())
    return images.to_pil(vae.decode(torch.cat(drawn), output="tensor"))


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

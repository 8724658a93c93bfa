"""Small text-to-image models with random weights, in every layout, for the tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vaekit import loading
from vaekit.checkpoints.pipelines import write_single_file
from vaekit.train.diffusion import SCHEDULER, DiffusionRecipe, TextNetwork, TextToLatents, train_tokenizer
from vaekit.train.run import Phase

SIDE = 32
"""Pixels: 4×4 cells of mini's latents."""

RECIPE = DiffusionRecipe(
    start="mini",
    phases=(Phase(steps=1, crops=((SIDE, 1),)),),
    size=SIDE,
    widths=(32, 64, 64),
    text=TextNetwork(tokens=16, width=32, layers=3, heads=2),
)
WORDS = ["a red apple", "a blue cat, flat", "a green fish with a hat"] * 4


def write_folder(folder: Path, *, prediction: str = "v_prediction", seed: int = 0) -> Path:
    """A diffusers folder without a VAE, whose index tells that it draws latents of mini."""
    from diffusers import DDIMScheduler

    tokenizer = train_tokenizer(WORDS, 300, 16, folder / "tokenizer")
    torch.manual_seed(seed)
    model = TextToLatents(RECIPE, tokenizer)
    for parameter in model.unet.parameters():  # a fresh one hardly listens to its prompt
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.unet.save_pretrained(folder / "unet")
    model.text_encoder.save_pretrained(folder / "text_encoder")
    DDIMScheduler(**(SCHEDULER | {"prediction_type": prediction})).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_vaekit_family": "mini",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_file(folder: Path, out: Path) -> Path:
    """The same as one safetensors file with mini baked in."""
    return write_single_file(folder, loading.find("mini"), out).path

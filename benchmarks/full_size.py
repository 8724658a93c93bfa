"""Full-size networks with random weights, in single files, drawn by vaekit and by diffusers alone.

    python benchmarks/full_size.py

The architecture of SD 1.5 (UNet, text encoder, VAE) in one file of the ldm layout, and
a full-size VAE of SDXL in a file of its own beside a small SDXL. Two steps at
256×256 from one seed, in float32, with diffusers' VAE and with vaekit's. Nothing is
fetched: vaekit takes configurations and tokenizer from its bundle, diffusers gets them
from a folder that is written here. Takes about 8 GB of memory and 4 GB of disk.
Exits with 1 where anything differs by more than 1e-3.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import vaekit
from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.pipelines import write_single_file
from vaekit.checkpoints.read import read
from vaekit.checkpoints.write import stored, write
from vaekit.generate.architectures import NOISE, clip_tokenizer, published
from vaekit.generate.painter import Painter
from vaekit.generate.samplers import choose, make
from vaekit.generate.settings import Settings

SIZE = 256
STEPS = 2
SETTINGS = Settings("a photo of a cat", steps=STEPS, seed=1, size=(SIZE, SIZE), sampler="DDIM")
TOLERANCE = 1e-3
CPU = torch.device("cpu")


def vae_folder(folder: Path, scaling: float) -> Path:
    """The architecture that SD 1.x, 2.x and SDXL share."""
    torch.manual_seed(2)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
        scaling_factor=scaling,
    )
    vae.half().save_pretrained(folder)
    return folder


def write_sd1(folder: Path) -> Path:
    """The folder that diffusers takes configurations from; gives the single file."""
    architecture = published("sd1")
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(dict(architecture.unet)).half().save_pretrained(folder / "unet")
    CLIPTextModel(CLIPTextConfig(**architecture.texts[0][1])).half().save_pretrained(folder / "text_encoder")
    architecture.tokenizers[0].save_pretrained(folder / "tokenizer")
    DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(
        folder / "scheduler"
    )
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index: dict[str, Any] = {name: ["diffusers", kind] for name, kind in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    vae = vae_folder(folder / "vae", 0.18215)
    written = write_single_file(folder, vae, folder.with_suffix(".safetensors"))
    for weights in (*folder.glob("*/*.safetensors"),):
        weights.unlink()
    return written.path


def draw_with_diffusers(pipe: Any, trained: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and pictures in [0, 1]."""
    pipe.set_progress_bar_config(disable=True)
    found = []
    for kind in ("latent", "pt"):
        pipe.scheduler = make(*choose("DDIM"), trained, STEPS, CPU)
        found.append(
            pipe(
                SETTINGS.prompt,
                num_inference_steps=STEPS,
                guidance_scale=SETTINGS.cfg,
                height=SIZE,
                width=SIZE,
                generator=torch.Generator().manual_seed(1),
                output_type=kind,
            ).images
        )
    return found[0], found[1]


def draw_with_vaekit(painter: Painter) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = next(iter(painter.txt2img(SETTINGS)))
    picture = painter.vae.decode(drawn.latents, output="tensor")
    return drawn.latents.tensor, picture / 2 + 0.5


def tell(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    difference = (ours - theirs).abs().max().item()
    print(f"  {what:<46} max difference {difference:.2e} of values up to {theirs.abs().max().item():.2f}")
    return difference <= TOLERANCE


def sd1(folder: Path) -> bool:
    path = write_sd1(folder / "sd1")
    print(f"SD 1.5's architecture: {path.stat().st_size / 1e9:.2f} GB in one file")
    started = time.perf_counter()
    pipe = StableDiffusionPipeline.from_single_file(
        str(path), config=str(folder / "sd1"), torch_dtype=torch.float32, safety_checker=None
    )
    print(f"  diffusers loads it in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    theirs = draw_with_diffusers(pipe, dict(published("sd1").scheduler))
    print(f"  diffusers draws twice in {time.perf_counter() - started:.1f} s")
    del pipe
    gc.collect()
    started = time.perf_counter()
    painter = Painter.open(str(path), vae="None", device="cpu", dtype="float32", vae_dtype="float32")
    print(f"  vaekit loads it in {time.perf_counter() - started:.1f} s, with nothing but the file")
    ours = draw_with_vaekit(painter)
    good = tell("latents", ours[0], theirs[0])
    good &= tell("picture, vaekit's VAE beside diffusers'", ours[1], theirs[1])
    with torch.no_grad():
        put_in = painter.vae.as_diffusers().decode(theirs[0] / painter.vae.family.scaling_factor).sample
    return good & tell("picture, vaekit's VAE put in diffusers' place", (put_in / 2 + 0.5).clamp(0, 1), theirs[1])


def sdxl(folder: Path) -> bool:
    """The VAE is what is of full size; UNet and text encoders are small."""
    config = vae_folder(folder / "sdxl-vae", 0.13025)
    weights = read(config)
    named = arrange(weights.state, weights.identity.config, "ldm")
    path = folder / "sdxl_vae.safetensors"
    write(path, {f"first_stage_model.{name}": stored(tensor) for name, tensor in named.items()}, {"format": "pt"})
    print(f"SDXL's VAE: {path.stat().st_size / 1e9:.2f} GB in a file of its own, beside a small SDXL")
    small = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 49408}
    clip = {"bos_token_id": 49406, "eos_token_id": 49407}
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
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
    pipe = StableDiffusionXLPipeline(
        AutoencoderKL.from_single_file(str(path), config=str(config), torch_dtype=torch.float32),
        CLIPTextModel(CLIPTextConfig(hidden_size=32, **small, **clip)),
        CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=64, projection_dim=32, **small, **clip)),
        clip_tokenizer("<|endoftext|>"),
        clip_tokenizer("!"),
        unet,
        DDIMScheduler(**NOISE, clip_sample=False),
    )
    pipe.save_pretrained(folder / "small-xl")
    theirs = draw_with_diffusers(pipe, NOISE)
    painter = Painter.open(str(folder / "small-xl"), vae=str(path), device="cpu", dtype="float32", vae_dtype="float32")
    assert painter.vae.family.name == "sdxl"
    ours = draw_with_vaekit(painter)
    good = tell("latents", ours[0], theirs[0])
    good &= tell("picture, vaekit's VAE beside diffusers'", ours[1], theirs[1])
    with torch.no_grad():
        put_in = painter.vae.as_diffusers().decode(theirs[0] / painter.vae.family.scaling_factor).sample
    return good & tell("picture, vaekit's VAE put in diffusers' place", (put_in / 2 + 0.5).clamp(0, 1), theirs[1])


def main() -> int:
    print(f"vaekit {vaekit.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        good = [sdxl(Path(name)), sd1(Path(name))]
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())

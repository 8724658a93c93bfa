"""Measure the bundled VAEs and write their cards and the table of docs/models.md; mini-sd's card is written by hand.

    python recipes/cards.py --photos PHOTOS [--runs RUNS]

PHOTOS: pictures that none of them was trained on. RUNS: where each run's folder lies under the model's name; steps and
minutes are read from its log and kept in models.json, so that cards can be written again without the runs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vaekit
from vaekit import assets

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "models.json"
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table: recipes/cards.py -->\n", "<!-- end -->"
CROP = (560, 520, 816, 776)
"""Of the bundled photo: petals, hair and soft ground."""


def measure(name: str, encoder: str, photos: list[Path]) -> dict[str, Any]:
    """Quality of the decoded mean, spread of the latents, cost of drawing, time."""
    encoding, decoding = vaekit.load(encoder, dtype="float32"), vaekit.load(name, dtype="float32")
    quality, drawn, latents = [], [], []
    for photo in photos:
        original, z = Image.open(photo), encoding.encode(photo)
        latents.append(z.tensor.flatten())
        quality.append(vaekit.measure(original, decoding.decode(z)))
        if encoding.config.kind == "kl":
            again = decoding.decode(encoding.encode(photo, sample=True, seed=0))
            drawn.append(vaekit.measure(original, again).psnr)
    psnr, ssim, ciede = (float(np.mean([getattr(q, k) for q in quality])) for k in ("psnr", "ssim", "ciede2000"))
    return {
        "psnr": round(psnr, 2),
        "ssim": round(ssim, 3),
        "ciede2000": round(ciede, 2),
        "spread": round(torch.cat(latents).std().item(), 3),
        "drawing": round(psnr - float(np.mean(drawn)), 3) if drawn else None,
        "seconds": round(seconds(decoding), 3),
    }


def seconds(vae: vaekit.VAE) -> float:
    """Decoding 512×512, the best of five."""
    side = 512 // vae.family.downscale
    z, best = torch.randn(1, vae.family.latent_channels, side, side), float("inf")
    for _ in range(6):
        started = time.perf_counter()
        vae.decode(z, output="tensor")
        best = min(best, time.perf_counter() - started)
    return best


def about_run(folder: Path) -> dict[str, int]:
    """Steps and minutes, from the log."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    spent, last = 0.0, 0
    for row in rows:
        if row["seconds"]:
            spent += float(row["seconds"]) * (int(row["step"]) - last)
            last = int(row["step"])
    return {"steps": int(rows[-1]["step"]), "minutes": round(spent / 60)}


def card(name: str, text: dict[str, Any], found: dict[str, Any], photographs: str) -> str:
    vae, folder = vaekit.load(name), assets.model_folder(name)
    weights = folder / "diffusion_pytorch_model.safetensors"
    training = text["training"].strip()
    for word in ("steps", "minutes"):
        training = training.replace(word.upper(), f"{found[word]:,}")
    drawing = f" Drawing from the posterior costs {found['drawing']:.3f} dB." if found["drawing"] is not None else ""
    own = f" --vae {name}" if text["encoder"] == name else ""
    two = f"vaekit encode PHOTOS/ -o LATENTS; vaekit decode LATENTS/ --vae {name} -o BACK"
    command = f"vaekit roundtrip PHOTOS/{own}" if own else two
    return f"""# {name}

{text["what"].strip()}

| | |
| --- | --- |
| architecture | {describe(vae)} |
| parameters | {vae.parameters:,} |
| latents | family {vae.family.name}, scaling factor {vae.family.scaling_factor:g} |
| file | `{weights.name}`, float16, {weights.stat().st_size / 1e6:.1f} MB, in the layout of diffusers |
| SHA-256 | `{hashlib.sha256(weights.read_bytes()).hexdigest()}` |
| licence | Apache-2.0 for the weights; see below for the pictures they were trained on |

## Quality

12 pictures of the Kodak Lossless True Color Image Suite (never trained on), full size, decoded mean of the encoder of
{text["encoder"]}, 8-bit: **{found["psnr"]:.2f} dB** PSNR, SSIM {found["ssim"]:.3f}, mean CIEDE2000
{found["ciede2000"]:.2f}. Standard deviation of the latents of these 12: {found["spread"]:.2f}.{drawing}
Decoding 512×512 takes {found["seconds"]:.2f} s on two cores.

    {command}
    python recipes/cards.py --photos PHOTOS      # measures all bundled VAEs and writes these cards

## Training

{training}

Data:
{photographs}

## Weaknesses

{text["weaknesses"].strip()}

![original, and what comes back](example.jpg)
"""


def describe(vae: vaekit.VAE) -> str:
    config = vae.config
    if config.kind == "tiny":
        return f"TAESD's, width {config.width}, blocks {config.encoder_blocks} and {config.decoder_blocks}"
    widths = ", ".join(map(str, config.encoder_channels))
    return (
        f"KL autoencoder of Rombach et al. 2022: {config.downscale}× downscale, {config.latent_channels} channels, "
        f"widths {widths}, {config.encoder_blocks} residual block per stage in the encoder and "
        f"{config.decoder_blocks} in the decoder, attention in the middle, {config.norm_groups} norm groups"
    )


def example(name: str, text: dict[str, Any]) -> Image.Image:
    """A part of the bundled photo, or of the sample photo that cards.toml names, beside what comes back."""
    photos = {path.name: path for path in assets.sample_photos()}
    photo, crop = (photos[text["photo"]], text["crop"]) if "photo" in text else (assets.photo(), CROP)
    original = Image.open(photo).convert("RGB").crop(crop)
    back = vaekit.load(name).decode(vaekit.load(text["encoder"]).encode(original))
    assert isinstance(back, Image.Image)
    return Image.fromarray(np.concatenate([np.asarray(original), np.asarray(back)], axis=1))


def table(models: dict[str, dict[str, Any]]) -> str:
    columns = ("name", "parameters", "file", "PSNR", "SSIM", "CIEDE2000", "latents' spread", "decode 512×512")
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for name, found in models.items():
        weights = assets.model_folder(name) / "diffusion_pytorch_model.safetensors"
        rows.append(
            f"| [`{name}`](../src/vaekit/assets/models/{name}/README.md) | {found['parameters'] / 1e6:.2f} M "
            f"| {weights.stat().st_size / 1e6:.1f} MB | {found['psnr']:.2f} dB | {found['ssim']:.3f} "
            f"| {found['ciede2000']:.2f} | {found['spread']:.2f} | {found['seconds']:.2f} s |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--runs", type=Path)
    given = parser.parse_args()
    texts = tomllib.loads((ROOT / "recipes" / "cards.toml").read_text("utf-8"))
    photographs = texts.pop("photographs").strip()
    photos = sorted(given.photos.glob("*.png"))
    known = json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}
    models = {}
    for name in [name for name in texts if name in assets.bundled_models()]:
        found = known.get(name, {}) | measure(name, texts[name]["encoder"], photos)
        found["parameters"] = vaekit.load(name).parameters
        if given.runs and (given.runs / name).is_dir():
            found |= about_run(given.runs / name)
        models[name] = found
        folder = assets.model_folder(name)
        example(name, texts[name]).save(folder / "example.jpg", quality=88)
        (folder / "README.md").write_text(card(name, texts[name], found, photographs), "utf-8")
        print(name, found)
    MEASURED.write_text(json.dumps(models, indent=2) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + table(models) + rest[rest.index(END) :], "utf-8")


if __name__ == "__main__":
    main()

"""Does a text-to-image model draw what its prompts say?

    python benchmarks/prompts.py MODEL --pictures EMOJI [--recipe recipes/mini-sd.toml] [--guidance 4] [--sheet OUT.png]

MODEL: a folder as `vaekit train diffusion` writes it. EMOJI: the pictures it was trained on, with captions.jsonl.

Names: for 100 names of the training set, drawn by chance, one picture each; counted is how often the prompt's own
thing is among the ten nearest training pictures, beside chance and beside the picture of another prompt. New phrases:
for the recipe's held-out "colour thing", how often the thing is among the ten nearest (grey descriptor only) and the
picture's colour has the asked-for name.

Descriptor: histograms of oriented gradients (Dalal and Triggs 2005; 8 orientations, cells of 16 pixels) of the grey
picture, and beside it, for names, the picture shrunk to 8x8 in L*a*b*; each scaled to length 1, cosine distance.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from skimage.color import rgb2lab
from skimage.feature import hog
from transformers import CLIPTextModel, CLIPTokenizer

from vaekit.train.captions import Captioned, colour_name, read_captions, without_colour
from vaekit.train.diffusion import DiffusionRecipe
from vaekit.train.diffusions import SHEET_GUIDANCE, draw_each

NAMES = 100
NEAREST = 10
Vectors = npt.NDArray[np.float64]


def describe(pictures: list[Image.Image], *, colour: bool) -> Vectors:
    """One row of length 1 (or sqrt 2) for each picture."""
    grey = np.stack([hog(np.asarray(p.convert("L")), 8, (16, 16), (2, 2)) for p in pictures])
    parts = [grey]
    if colour:
        small = [rgb2lab(np.asarray(p.resize((8, 8), Image.Resampling.BOX))) - (70, 0, 0) for p in pictures]
        parts.append(np.stack([s.ravel() for s in small]))
    return np.concatenate([p / (np.linalg.norm(p, axis=1, keepdims=True) + 1e-9) for p in parts], axis=1)


def nearest(drawn: Vectors, known: Vectors) -> npt.NDArray[np.int64]:
    """For each drawn picture the numbers of the ten nearest known ones."""
    return np.argsort(-(drawn @ known.T), axis=1)[:, :NEAREST]


class Model(torch.nn.Module):
    """The parts that were written, as in training."""

    def __init__(self, folder: Path, recipe: DiffusionRecipe, guidance: float):
        from diffusers import UNet2DConditionModel

        super().__init__()
        self.recipe, self.guidance = recipe, guidance
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)

    def draw(self, prompts: list[str]) -> list[Image.Image]:
        told, blank = (
            self.tokenizer(given, padding="max_length", truncation=True, return_tensors="pt").input_ids
            for given in (prompts, [""])
        )
        return draw_each(self, self.recipe, told, blank, guidance=self.guidance)  # type: ignore[arg-type]


def names(model: Model, known: list[Captioned]) -> dict[str, float]:
    rng = np.random.default_rng(1)
    prompts = [str(name) for name in rng.choice(sorted({one.name for one in known}), NAMES, replace=False)]
    drawn = model.draw(prompts)
    found = nearest(describe(drawn, colour=True), describe([one.picture for one in known], colour=True))
    hit = [[known[i].name == prompt for i in row] for prompt, row in zip(prompts, found, strict=True)]
    wrong = [[known[i].name == prompt for i in row] for prompt, row in zip(np.roll(prompts, 1), found, strict=True)]
    copies = np.mean([sum(one.name == prompt for one in known) for prompt in prompts])
    return {
        "own": float(np.mean([any(row) for row in hit])),
        "wrong prompt": float(np.mean([any(row) for row in wrong])),
        "chance": float(1 - (1 - copies / len(known)) ** NEAREST),
    }


def phrases(model: Model, known: list[Captioned], asked: list[str]) -> tuple[dict[str, float], list[Image.Image]]:
    drawn = model.draw(asked)
    found = nearest(describe(drawn, colour=False), describe([one.picture for one in known], colour=False))
    colours = [phrase.split()[0] == colour_name(picture) for phrase, picture in zip(asked, drawn, strict=True)]
    things = [
        any(phrase.split(maxsplit=1)[1] in without_colour(known[i].name).split() for i in row)
        for phrase, row in zip(asked, found, strict=True)
    ]
    both = float(np.mean(np.array(colours) & np.array(things)))
    return {"colour": float(np.mean(colours)), "thing": float(np.mean(things)), "both": both}, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/mini-sd.toml"))
    parser.add_argument("--guidance", type=float, default=SHEET_GUIDANCE)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    recipe = DiffusionRecipe.read(given.recipe)
    model, known = Model(given.model, recipe, given.guidance), read_captions(given.pictures, recipe.size)
    started = time.perf_counter()
    model.draw(["a red apple"])
    report: dict[str, object] = {"seconds for one picture": round(time.perf_counter() - started, 2)}
    report["names"] = names(model, known)
    report["new phrases"], drawn = phrases(model, known, list(recipe.held_out))
    print(json.dumps(report, indent=2))
    if given.sheet:
        rows = [np.concatenate([np.asarray(p) for p in drawn[i : i + 10]], axis=1) for i in range(0, len(drawn), 10)]
        Image.fromarray(np.concatenate(rows)).save(given.sheet)


if __name__ == "__main__":
    main()

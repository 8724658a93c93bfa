"""The networks around a VAE: what tells how large they are, and their tokenizers.

From a folder in the layout of diffusers, or, of the published models, from architectures.toml.
"""

from __future__ import annotations

import gzip
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from vaekit import assets
from vaekit.errors import FileError

NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""Stable Diffusion's noise, in the words of diffusers' schedulers."""

PIPELINES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
LARGEST_JSON = 4 << 20
"""Bytes; the largest of them is CLIP's vocab.json, of 1 MB."""

TEXT = "CLIPTextModel", "CLIPTextModelWithProjection"
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Architecture:
    """How the networks of a text-to-image model are built.

    pipeline: diffusers' class that it belongs to. texts: of each text encoder, the
    class of transformers and its configuration. tokenizers: of each, in the same order.
    """

    title: str
    pipeline: str
    unet: Mapping[str, Any]
    texts: tuple[tuple[str, Mapping[str, Any]], ...]
    tokenizers: tuple[Any, ...] = field(repr=False)
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_xl(self) -> bool:
        return PIPELINES[self.pipeline] == "sdxl"


def published(name: str) -> Architecture:
    """sd1, sd2 or sdxl, as architectures.toml has them, with CLIP's tokenizer."""
    text = resources.files("vaekit.generate").joinpath("architectures.toml").read_text("utf-8")
    told = tomllib.loads(text)[name]
    texts = [(TEXT[0], told["text_encoder"])]
    pads = [told["pad"]]
    if "text_encoder_2" in told:
        texts.append((TEXT[1], told["text_encoder_2"]))
        pads.append(told["pad_2"])
    clip = {"bos_token_id": 49406, "eos_token_id": 49407}
    return Architecture(
        title=told["title"],
        pipeline=told["pipeline"],
        unet=told["unet"],
        texts=tuple((kind, config | clip) for kind, config in texts),
        tokenizers=tuple(clip_tokenizer(pad) for pad in pads),
        scheduler=NOISE | told["scheduler"],
    )


def in_folder(folder: Path) -> Architecture:
    """Of a diffusers folder: model_index.json (or unet/ and text_encoder/ alone), their config.json, the tokenizer.

    Raises FileError for what is missing or broken, and for pipelines of other kinds.
    """
    texts = []
    for part, kind in (("text_encoder", TEXT[0]), ("text_encoder_2", TEXT[1])):
        if (folder / part / "config.json").is_file():
            texts.append((kind, read_json(folder / part / "config.json")))
    if not texts:
        raise FileError(f"{folder}: no text_encoder/config.json in it; not a folder of a text-to-image model")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return Architecture(
        title=folder.name,
        pipeline=_pipeline(folder, len(texts)),
        unet=read_json(folder / "unet" / "config.json"),
        texts=tuple(texts),
        tokenizers=tuple(_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")[: len(texts)]),
        scheduler=NOISE | (dict(read_json(scheduler)) if scheduler.is_file() else {}),
    )


def _pipeline(folder: Path, texts: int) -> str:
    if not (folder / "model_index.json").is_file():
        return list(PIPELINES)[texts - 1]
    told = str(read_json(folder / "model_index.json").get("_class_name"))
    for known in sorted(PIPELINES, key=len, reverse=True):
        if told in (known, *(known.replace("Pipeline", end) for end in ("Img2ImgPipeline", "InpaintPipeline"))):
            return known
    raise FileError(f"{folder}: a {told[:80]}; vaekit draws with {' and '.join(PIPELINES)}")


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object. Raises FileError in one line."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise FileError(f"{path}: too large for a configuration")
        loaded = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not valid JSON") from error
    if not isinstance(loaded, dict):
        raise FileError(f"{path}: not a configuration")
    return loaded


def _tokenizer(folder: Path) -> Any:
    """CLIP's kind, from vocab.json and merges.txt; CLIP's own where the folder is not there."""
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        return clip_tokenizer(END if folder.name == "tokenizer" else "!")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever its parsers raise on broken files
        raise FileError(f"{folder}: not a tokenizer of CLIP's kind ({' '.join(str(error).split())[:120]})") from error


@cache
def clip_tokenizer(pad: str) -> Any:
    """CLIP's tokenizer for prompts of 75 tokens and two marks; pad: what fills up shorter ones."""
    from transformers import CLIPTokenizer

    merges = [line for line in gzip.decompress(assets.path("clip/merges.txt.gz").read_bytes()).decode().split("\n")]
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(line.replace(" ", "") for line in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, START, END])}
    pairs = [tuple(line.split(" ")) for line in merges]
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, pad_token=pad, model_max_length=77)


def _letters() -> list[str]:
    """The letters that stand for bytes in a byte-pair encoding, in the order of CLIP's vocabulary."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + number) for number in range(len(hidden))]

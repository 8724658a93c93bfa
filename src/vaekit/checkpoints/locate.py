"""From what a user names to files: a file, a sharded index, a diffusers folder, a pair of TAESD files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaekit.checkpoints.sources import INDEX_SUFFIX
from vaekit.errors import FileError

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".sft")
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
LARGEST_CONFIG = 1 << 20
DIFFUSERS_STEM = "diffusion_pytorch_model"
DIFFUSERS_ORDER = (".safetensors", INDEX_SUFFIX, ".fp16.safetensors", ".bf16.safetensors", ".bin", ".fp16.bin")


@dataclass(frozen=True)
class Location:
    """weights: the file to open. decoder: a second file that holds the decoder. config: of a diffusers folder."""

    weights: Path
    decoder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def locate(path: Path) -> Location:
    """The files behind a path. Raises FileError when a folder does not say which file is meant."""
    try:
        return _locate_in_folder(path) if path.is_dir() else Location(path, config=_config_beside(path))
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte in it
        raise FileError(f"{str(path)!r}: {getattr(error, 'strerror', None) or error}") from error


def _locate_in_folder(folder: Path) -> Location:
    if not (folder / "config.json").exists() and (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    if (folder / "config.json").is_file():
        for ending in DIFFUSERS_ORDER:
            if (folder / (DIFFUSERS_STEM + ending)).exists():
                return Location(folder / (DIFFUSERS_STEM + ending), config=_read_config(folder))
    weights = _weights_in(folder)
    pair = _taesd_pair(weights)
    if pair:
        return Location(pair[0], decoder=pair[1])
    if len(weights) == 1:
        return Location(weights[0], config=_read_config(folder))
    if not weights:
        raise FileError(f"{folder}: a folder without a VAE in it")
    names = ", ".join(p.name for p in weights[:4]) + (" …" if len(weights) > 4 else "")
    raise FileError(f"{folder}: a folder with {len(weights)} models; name one of them: {names}")


def _weights_in(folder: Path) -> list[Path]:
    """Its weight files by name, with an index in place of the shards that it holds together."""
    files = sorted(folder.iterdir())
    indices = [p for p in files if p.name.endswith(INDEX_SUFFIX)]
    weights = [p for p in files if p.suffix.lower() in WEIGHT_SUFFIXES]
    return indices + [p for p in weights if not (indices and SHARD.fullmatch(p.name))]


def _taesd_pair(weights: list[Path]) -> tuple[Path, Path] | None:
    pairs = [
        (encoder, decoder)
        for encoder in weights
        for decoder in weights
        if encoder.stem.endswith("encoder") and decoder.stem == encoder.stem.removesuffix("encoder") + "decoder"
    ]
    return pairs[0] if len(pairs) == 1 else None


def _config_beside(path: Path) -> Mapping[str, Any]:
    """A diffusers weights file named by itself still belongs to the config.json beside it."""
    is_diffusers = path.name.startswith(DIFFUSERS_STEM)
    return _read_config(path.parent) if is_diffusers and (path.parent / "config.json").is_file() else {}


def _read_config(folder: Path) -> Mapping[str, Any]:
    config = dict(_read_json(folder / "config.json"))
    pipeline = _read_json(folder.absolute().parent / "model_index.json").get("_class_name")
    return config | ({"_pipeline": pipeline} if pipeline else {})


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise FileError(f"{path}: too large for a configuration")
        loaded = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: not valid JSON") from error
    if not isinstance(loaded, dict):
        raise FileError(f"{path}: not a configuration")
    return loaded

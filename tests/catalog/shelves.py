"""Models on a disk of its own: an empty home, files with published headers and holes for weights, small real VAEs."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from vaekit.catalog import Library, places, scan
from vaekit.catalog.index import Index

HEADERS = Path(__file__).parents[1] / "data" / "headers"
BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "U8": 8, "I8": 8}

SD1, SD1_WITHOUT, SDXL, SDXL_WITHOUT = (
    "v1-5-pruned-emaonly",
    "sd15-unet-only",
    "sd_xl_base_1.0-thinned",
    "sdxl-without-vae-thinned",
)
"""Checkpoints."""

LIKE_SD1, OF_SDXL, LIKE_FLUX = "vae-ft-mse-840000-ema-pruned", "sdxl-vae-fp16-fix-diffusers", "flux1-ae"
"""VAEs: the first can be of sd1, sdxl or playground25, the second is a folder whose config.json tells."""


def empty_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with no models, settings or memories, who works in an empty folder."""
    for name in (
        "VAEKIT_CATALOG",
        "VAEKIT_FAMILIES",
        "VAEKIT_MODELS",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / ".local" / "share"))
    monkeypatch.chdir(home / "work")
    return home


def put(header: str, path: Path, **changes: Any) -> Path:
    """A file with a published header, as long as the published one; a folder with config.json where it has one."""
    entry = json.loads((HEADERS / f"{header}.json").read_text()) | changes
    if "config" in entry:
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(entry["config"]))
        write_sparse(entry["tensors"], entry.get("metadata"), path / "diffusion_pytorch_model.safetensors")
    else:
        write_sparse(entry["tensors"], entry.get("metadata"), path)
    return path


def write_sparse(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None, path: Path) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    return path


def baked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's names around a VAE."""
    from torch import zeros

    around = {"cond_stage_model.x": zeros(1), "model.diffusion_model.input_blocks.0.0.weight": zeros(8, 4, 3, 3)}
    return {f"first_stage_model.{name}": tensor for name, tensor in state.items()} | around


def library(*folders: Path, **options: Any) -> Library:
    """What is in these folders and the usual places."""
    return scan(places(folders), **options)


def index(home: Path) -> Index:
    return Index(home / "index.sqlite3")


def kinds(found: Library) -> dict[str, str]:
    """Name -> kind, without what ships with vaekit."""
    return {entry.name: entry.kind for entry in found.entries if entry.program != "bundled"}

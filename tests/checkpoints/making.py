"""Small VAEs in every kind of file, sound and hostile."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from conftest import random_state
from safetensors.torch import save_file
from torch import Tensor

from vaekit.checkpoints.layouts import to_diffusers
from vaekit.networks.config import KLConfig, TinyConfig

KL = KLConfig(4, (32, 32), (32, 32), 1, 2)
TINY = TinyConfig(4, 8, (1, 1, 1, 1), (1, 1, 1, 1))

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def kl_state(seed: int = 0, config: KLConfig = KL) -> dict[str, Tensor]:
    return dict(random_state(config, seed))


def tiny_state(seed: int = 0) -> dict[str, Tensor]:
    return dict(random_state(TINY, seed))


def half_of(state: Mapping[str, Tensor], half: str) -> dict[str, Tensor]:
    """The encoder or the decoder of a KL network, with its 1×1 convolution."""
    starts = ("encoder.", "quant_conv.") if half == "encoder" else ("decoder.", "post_quant_conv.")
    return {name: tensor for name, tensor in state.items() if name.startswith(starts)}


def numbered(state: Mapping[str, Tensor], half: str) -> dict[str, Tensor]:
    """One half of a tiny network as its authors publish it: the numbers of a Sequential."""
    return {name.removeprefix(f"{half}."): t for name, t in state.items() if name.startswith(f"{half}.")}


def in_diffusers_names(state: Mapping[str, Tensor], *, old: bool = False, dims: int = 2) -> dict[str, Tensor]:
    """The same weights as diffusers names them; attention weights with that many dimensions."""
    renamed = {}
    for name, tensor in state.items():
        theirs = to_diffusers(name, stages=len(KL.decoder_channels))
        if ".attentions." in theirs and theirs.endswith(".weight") and "group_norm" not in theirs:
            tensor = tensor.reshape(tensor.shape[:dims])
        if old:
            for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                theirs = theirs.replace(f".{new}.", f".{before}.")
        renamed[theirs] = tensor
    return renamed


def save_safetensors(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


def save_torch(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_diffusers(state: Mapping[str, Tensor], folder: Path, config: Any, *, ending: str = ".safetensors") -> Path:
    save_safetensors(state, folder / f"diffusion_pytorch_model{ending}")
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def save_shards(state: Mapping[str, Tensor], folder: Path, stem: str = "model") -> Path:
    """Two shards and their index, whose path is returned."""
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05}-of-00002.safetensors"
        save_safetensors({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def raw_safetensors(header: bytes | Mapping[str, Any], data: bytes, path: Path, *, length: int | None = None) -> Path:
    """A file with exactly this header; length: what its first eight bytes claim."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


# Pickles by hand


def zip_of(*pickles: bytes, names: tuple[str, ...] = ("archive/data.pkl",), compressed: bool = False) -> bytes:
    """PyTorch's zip archive around a pickle (or several)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, pickled in zip(names, pickles, strict=True):
            archive.writestr(name, pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def legacy_of(pickled: bytes) -> bytes:
    """PyTorch's format of before 2020 around a pickle."""
    before = (LEGACY_MAGIC, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(value, 2) for value in before) + pickled + pickle.dumps([], 2)


CONTAINERS = {"zip": zip_of, "legacy": legacy_of, "bare": bytes}

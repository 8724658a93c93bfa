"""Every header of the collection in tests/data/headers gives the answer that stands beside it.

The files are made as they were published, header and size, with a hole where the weights would be.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from vaekit.checkpoints.identify import Identity, identify
from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.sources import TensorInfo
from vaekit.errors import NotAVAEError
from vaekit.families import families

HEADERS = sorted((Path(__file__).parent.parent / "data" / "headers").glob("*.json"))
BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "U8": 8, "I8": 8}

REFUSALS = {
    "lora": "LoRA",
    "text_encoder": "text encoder",
    "controlnet": "ControlNet",
    "embedding": "textual inversion",
    "unet_only": "UNet",
    "checkpoint_without_vae": "without a baked VAE",
    "dc-ae": "DC-AE",
    "wan": "video",
    "consistency_decoder": "consistency decoder",
    "upscaler": "upscaler",
}


def write_safetensors(entry: dict[str, Any], folder: Path) -> Path:
    """A file with this header and a hole for its data, with its config.json where it has one."""
    header: dict[str, Any] = {"__metadata__": entry["metadata"]} if entry.get("metadata") else {}
    end = 0
    for name, (dtype, shape) in entry["tensors"].items():
        start, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    path = folder / Path(entry["filename"]).name
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    if "config" in entry:
        (folder / "config.json").write_text(json.dumps(entry["config"]))
    return path


def identify_entry(entry: dict[str, Any], folder: Path) -> Identity:
    if entry["container"] == "safetensors":
        return inspect(write_safetensors(entry, folder))[0].identity
    tensors = {name: TensorInfo(dtype, tuple(shape)) for name, (dtype, shape) in entry["tensors"].items()}
    return identify(tensors, path=Path(entry["filename"]), config=entry.get("config"))


def answer(identity: Identity) -> dict[str, Any]:
    config = identity.config
    found = {
        "kind": config.kind,
        "layout": identity.layout,
        "families": sorted(family.name for family in identity.families if family.name in families()),
        "encoder": config.has_encoder,
        "decoder": config.has_decoder,
        "latent_channels": config.latent_channels,
        "baked": identity.baked,
        "prefix": identity.prefix,
    }
    if config.kind == "kl":
        found["encoder_channels"] = list(config.encoder_channels)
        found["decoder_channels"] = list(config.decoder_channels)
        found["quant_conv"] = config.quant_conv or config.post_quant_conv
    return found


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.stem)
def test_a_published_header_is_recognised(header: Path, tmp_path: Path) -> None:
    entry = json.loads(header.read_text())
    expected = entry["expect"]
    if "refused" in expected:
        with pytest.raises(NotAVAEError, match=REFUSALS[expected["refused"]]) as refusal:
            identify_entry(entry, tmp_path)
        assert "\n" not in str(refusal.value)
        return
    found = answer(identify_entry(entry, tmp_path))
    expected["families"] = sorted(expected["families"])
    assert found == {key: value for key, value in expected.items() if key in found}


def test_the_collection_is_there() -> None:
    assert len(HEADERS) > 60

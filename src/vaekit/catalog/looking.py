"""What a file on this disk is, from its header alone."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vaekit.checkpoints.locate import DIFFUSERS_STEM, LARGEST_CONFIG, Location, locate
from vaekit.checkpoints.sources import LARGEST_HEADER, TensorInfo, open_source, regular_file
from vaekit.errors import FileError, NotAVAEError
from vaekit.families import families

Kind = Literal["vae", "checkpoint", "other", "broken", "unfinished"]

_METADATA_FIRST = re.compile(r'\{\s*"__metadata__"\s*:\s*')
INDEX = "model_index.json"
FAMILY = "_vaekit_family"
"""In the index of a pipeline without a VAE of its own: whose latents it draws. diffusers skips what begins so."""

_ZIP = b"PK\x03\x04"
_UPSCALER_INPUTS = 7
"""Channels that the UNet of the ×4 upscaler takes: the latents' 4 and the small picture's 3."""


@dataclass(frozen=True)
class Facts:
    """What a file is. families: those it can belong to; note: why it is broken, what else it is, why it has no VAE."""

    kind: Kind
    families: tuple[str, ...] = ()
    evidence: str = ""
    network: str = ""
    layout: str = ""
    container: str = ""
    encoder: bool = False
    decoder: bool = False
    dtypes: tuple[str, ...] = ()
    note: str = ""

    @property
    def has_vae(self) -> bool:
        return self.encoder or self.decoder

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


class Looker:
    """Looks at files. Most of a library's headers are copies of a few, and each of these is understood once.

    Raises FileError where the user's own families file has a mistake: the files that are looked at are not broken.
    """

    def __init__(self) -> None:
        families()
        self._understood: dict[str, Facts] = {}

    def look(self, path: Path) -> Facts:
        """What a file or diffusers folder is; what cannot be read is broken and says why. Never raises FileError."""
        try:
            structure = _structure(path)
            if structure is None:
                return _look(path)
            if structure not in self._understood:
                facts = _look(path)
                if facts.network == "tiny":  # their names tell them apart
                    return facts
                self._understood[structure] = facts
            return self._understood[structure]
        except FileError as error:
            return Facts("broken", note=_without_path(str(error), path))
        except OSError as error:
            return Facts("broken", note=error.strerror or str(error))


def _structure(path: Path) -> str | None:
    """A hash of all that decides what a single file is, but for its name; None where that is not so simple."""
    if path.is_dir() or path.name.startswith(DIFFUSERS_STEM):
        return None
    with regular_file(path).open("rb") as file:
        start = file.read(8)
        if start.startswith(_ZIP):
            return _structure_of_zip(path)
        length = int.from_bytes(start, "little")
        if not 2 <= length <= LARGEST_HEADER:
            return None
        header = file.read(length)
        data = file.seek(0, 2) - 8 - length
    try:
        text = header.decode("utf-8")
        first = _METADATA_FIRST.match(text)
        metadata, end = _DECODER.raw_decode(text, first.end()) if first else ({}, 0)
        architecture = metadata.get("modelspec.architecture")
    except (ValueError, AttributeError, RecursionError):
        return None
    return hashlib.sha256(f"{data} {architecture} {text[end:]}".encode()).hexdigest()


def _structure_of_zip(path: Path) -> str | None:
    """Of what torch.save wrote: its pickle, of which nothing is run, and the sizes of the weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            pickles = [record for record in records if record.filename.lower().endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > LARGEST_HEADER:
                return None
            # the first part of each name is that of the file it was saved as
            sizes = [(r.filename.partition("/")[2], r.file_size, r.compress_type) for r in records]
            return hashlib.sha256(archive.read(pickles[0]) + repr(sorted(sizes)).encode()).hexdigest()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, LookupError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Metadata whose keys are all different; others are left to the reader that refuses them."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _look(path: Path) -> Facts:
    from vaekit.checkpoints.read import open_vae  # where nothing is new, nothing of it is needed

    if path.is_dir() and (path / INDEX).is_file() and not (path / "vae").is_dir():
        return _look_at_pipeline(path)
    location = locate(path)
    try:
        source, found = open_vae(location)
    except NotAVAEError as error:
        return _look_at_other(location, _without_path(str(error), location.weights))
    is_pipeline = (path / INDEX).is_file()
    dtypes = Counter(source.tensors[name].dtype for name in found.names.values())
    return Facts(
        kind="checkpoint" if found.baked or is_pipeline else "vae",
        families=tuple(family.name for family in found.families),
        evidence=found.evidence,
        network=found.config.kind,
        layout=found.layout,
        container=source.container,
        encoder=found.config.has_encoder,
        decoder=found.config.has_decoder,
        dtypes=tuple(dtype for dtype, _ in dtypes.most_common()),
    )


def _look_at_pipeline(folder: Path) -> Facts:
    """A diffusers pipeline without a VAE: its index tells its family, or its class does."""
    from vaekit.checkpoints.identify import families_of_pipeline

    index = read_index(folder)
    named = index.get(FAMILY)
    known = (str(named),) if named in families() else families_of_pipeline(str(index.get("_class_name", "")))
    evidence = f"{FAMILY} in its {INDEX}" if named in families() else f"its pipeline, {index.get('_class_name')!s:.60}"
    return Facts("checkpoint", families=known, evidence=evidence, note="a diffusers folder without a vae/")


def read_index(folder: Path) -> Mapping[str, Any]:
    """model_index.json of a diffusers folder. Raises FileError."""
    path = folder / INDEX
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise FileError(f"{path}: too large for an index")
        index = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not valid JSON") from error
    if not isinstance(index, dict):
        raise FileError(f"{path}: not an index of a pipeline")
    return index


def _look_at_other(location: Location, reason: str) -> Facts:
    """A checkpoint without a VAE still has a family, and needs one."""
    from vaekit.checkpoints.identify import surroundings

    source = open_source(location.weights)
    around = surroundings(source.tensors)
    if around is None or any("lora_" in name for name in source.tensors):
        return Facts("other", container=source.container, note=reason)
    evidence, families = around
    if "sd1" in families:
        families = frozenset(("upscaler4x" if _is_upscaler(source.tensors) else "sd1",))
    return Facts(
        kind="checkpoint",
        families=tuple(sorted(families)),
        evidence=evidence,
        container=source.container,
        note=reason.removesuffix(", not a VAE"),
    )


def _is_upscaler(tensors: Mapping[str, TensorInfo]) -> bool:
    first = tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    return first is not None and len(first.shape) == 4 and first.shape[1] == _UPSCALER_INPUTS


def _without_path(message: str, path: Path) -> str:
    for start in (f"{path}: ", f"{str(path)!r}: "):
        message = message.removeprefix(start)
    return message

"""Safetensors files, written as a stream: whatever their size, a few megabytes of them are in memory at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vaekit.checkpoints.sources import PIECE, SafetensorsSource, Source, TensorInfo
from vaekit.errors import FileError, OptionError, OutputError
from vaekit.files import atomic_write, check_target

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and all of them; writing and reading back count alike."""

SUFFIXES = (".safetensors", ".sft")

# fmt: off
_DTYPES = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
    "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)
# fmt: on
"""All that a file can hold, in the safetensors library's order: its files begin with the last."""


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: what its header says, and its bytes in pieces, fetched when its turn comes."""

    info: TensorInfo
    size: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True)
class Written:
    """A file that was written and read back. size: bytes; sha256: of the whole file, in hexadecimal."""

    path: Path
    size: int
    sha256: str


def copied(source: Source, name: str) -> Entry:
    """A tensor of an opened file, to be copied byte for byte."""
    return Entry(source.tensors[name], source.size(name), lambda: source.pieces(name))


def stored(tensor: Tensor, dtype: torch.dtype | None = None) -> Entry:
    """A tensor on the CPU, to be stored as it is, or converted when its turn comes."""
    from vaekit.checkpoints.tensors import dtype_name, pieces_of

    kept = dtype or tensor.dtype
    info = TensorInfo(dtype_name(kept), tuple(tensor.shape))
    return Entry(info, tensor.numel() * kept.itemsize, lambda: pieces_of(tensor.to(kept)))


def write(
    path: Path,
    entries: Mapping[str, Entry],
    metadata: Mapping[str, str] | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write a safetensors file atomically, and read it back from the disk before it gets its name.

    Tensors lie in the safetensors library's order of dtypes, so that each is
    aligned; among those of one dtype in the order of `entries`. Raises
    OptionError (another suffix), OutputError (exists, no permission, disk full,
    read back otherwise) and FileError (a source that broke off).
    """
    check_suffix(path)
    check_target(path, force=force)
    ordered = _in_order(path, entries)
    header = make_header({name: (entry.info, entry.size) for name, entry in ordered.items()}, metadata)
    size = len(header) + sum(entry.size for entry in ordered.values())
    check_space(path, size)
    tick = _Ticker(progress, 2 * size)
    with atomic_write(path, force=force) as part:
        with part.open("wb") as file:
            digest = _stream(file, header, ordered, tick)
            _flush(file)
        _read_back(path, part, ordered, metadata, digest, tick)
    return Written(path, size, digest)


def check_suffix(path: Path) -> None:
    """Raise OptionError for a name that programs would take for another format."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"{path}: what is written is a safetensors file: name it {path.stem}.safetensors")


def make_header(tensors: Mapping[str, tuple[TensorInfo, int]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file: the header's length, the header, spaces up to a multiple of eight.

    tensors: dtype and shape, and bytes, of each in the order of the data.
    """
    described: dict[str, object] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    end = 0
    for name, (info, size) in tensors.items():
        start, end = end, end + size
        described[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (start, end)}
    encoded = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    padded = encoded.ljust(-(-len(encoded) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


def _in_order(path: Path, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    for name, entry in entries.items():
        if entry.info.dtype not in _DTYPES or name == "__metadata__":
            raise FileError(f"{path}: {name[:80]!r} ({entry.info.dtype[:40]}) has no place in a safetensors file")
    return dict(sorted(entries.items(), key=lambda item: -_DTYPES.index(item[1].info.dtype)))


def check_space(path: Path, size: int) -> None:
    """Raise OutputError where the disk has no room for that many bytes at `path`."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(f"{path}: takes {size / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB left")


class _Ticker:
    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _stream(file: BinaryIO, header: bytes, entries: Mapping[str, Entry], tick: _Ticker) -> str:
    digest = hashlib.sha256(header)
    file.write(header)
    tick(len(header))
    for name, entry in entries.items():
        count = 0
        for piece in entry.pieces():
            file.write(piece)
            digest.update(piece)
            count += len(piece)
            tick(len(piece))
        if count != entry.size:
            raise FileError(f"{name[:80]!r}: {count} bytes came where {entry.size} belong")
    return digest.hexdigest()


def _flush(file: BinaryIO) -> None:
    """Onto the disk, and out of the memory that would otherwise answer when it is read back."""
    file.flush()
    os.fsync(file.fileno())
    if sys.platform == "linux":
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_back(
    path: Path,
    part: Path,
    entries: Mapping[str, Entry],
    metadata: Mapping[str, str] | None,
    digest: str,
    tick: _Ticker,
) -> None:
    """Raise OutputError where the file at `part` is not what was meant for `path`."""
    problem = ""
    try:
        found = SafetensorsSource(part)
        same = found.tensors == {name: entry.info for name, entry in entries.items()}
        if not same or found.metadata != dict(metadata or {}) or _hash(part, tick) != digest:
            problem = "it holds something else"
    except FileError as error:
        problem = str(error).removeprefix(f"{part}: ")
    if problem:
        raise OutputError(f"{path}: what was written does not read back ({problem}); nothing was kept")


def _hash(path: Path, tick: _Ticker) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            tick(len(piece))
    return digest.hexdigest()

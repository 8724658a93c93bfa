"""Files of tensors: what is in them, and the wanted tensors, without believing anything too early.

The format is decided by the content, never by the name. Opening a safetensors
file reads its header and nothing else, and does not import torch.
"""

from __future__ import annotations

import json
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vaekit.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

Container = Literal["safetensors", "torch"]
INDEX_SUFFIX = ".safetensors.index.json"
LARGEST_HEADER = 16 << 20
"""Bytes; published ones, of checkpoints and indices, stay below one million."""

PIECE = 4 << 20
"""Bytes; what is copied at once."""

FLOATS = frozenset(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))
"""The dtypes that weights come in."""


class TensorInfo(NamedTuple):
    """dtype in the notation of safetensors (F32, BF16, F8_E4M3 …) and shape."""

    dtype: str
    shape: tuple[int, ...]


class Source(ABC):
    """An opened file of tensors."""

    path: Path
    container: Container
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def files(self) -> list[Path]:
        """Every file it consists of."""
        return [self.path]

    @abstractmethod
    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of those names, on the CPU, in the file's dtypes. Raises FileError."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a tensor."""

    @abstractmethod
    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """A tensor's bytes as safetensors files hold them, a few megabytes at a time. Raises FileError."""


class SafetensorsSource(Source):
    container: Container = "safetensors"

    def __init__(self, path: Path):
        from safetensors import safe_open

        self.path = regular_file(path)
        header = _read_header(path)
        with _one_line(path):
            file: Any = safe_open(path, framework="numpy")  # which checks all of the header
            self.tensors = _Infos(file)
            self.metadata = file.metadata() or {}
        _refuse_twins(path, header, len(self.tensors))

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Each tensor's begin and end in the file."""
        header = _read_header(self.path)
        start = 8 + len(header)
        described = json.loads(header)
        return {name: tuple(start + offset for offset in described[name]["data_offsets"]) for name in self.tensors}

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with _one_line(self.path), safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}

    def size(self, name: str) -> int:
        start, end = self._places[name]
        return end - start

    def pieces(self, name: str) -> Iterator[bytes]:
        start, end = self._places[name]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                while start < end:
                    piece = file.read(min(PIECE, end - start))
                    if not piece:
                        raise FileError(f"{self.path}: became shorter while it was read")
                    start += len(piece)
                    yield piece
        except OSError as error:
            raise FileError(f"{self.path}: {error.strerror or error}") from error


class _Infos(Mapping[str, TensorInfo]):
    """What an opened file tells of its tensors, in their order there; of each when it is asked for.

    A checkpoint has thousands of tensors, of which a VAE is a few hundred.
    """

    def __init__(self, file: Any):
        self._file = file
        self._told: dict[str, TensorInfo | None] = dict.fromkeys(file.offset_keys())

    def __getitem__(self, name: str) -> TensorInfo:
        told = self._told[name]
        if told is None:
            described = self._file.get_slice(name)
            told = self._told[name] = TensorInfo(described.get_dtype(), tuple(described.get_shape()))
        return told

    def __contains__(self, name: object) -> bool:
        return name in self._told

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)


class ShardedSource(Source):
    """Several safetensors files that one index holds together."""

    container: Container = "safetensors"

    def __init__(self, index: Path):
        self.path = index
        shard_of = _read_index(index)
        self._shards = {shard: SafetensorsSource(index.parent / shard) for shard in sorted(set(shard_of.values()))}
        self.metadata = {}
        self.tensors = {}
        for name, shard in shard_of.items():
            if name not in self._shards[shard].tensors:
                raise FileError(f"{index}: {shard} does not hold {name}, though the index says so")
            self.tensors[name] = self._shards[shard].tensors[name]
        self._shard_of = shard_of

    @property
    def files(self) -> list[Path]:
        return [source.path for source in self._shards.values()]

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        loaded: dict[str, Tensor] = {}
        for shard, source in self._shards.items():
            loaded |= source.load(name for name in wanted if self._shard_of[name] == shard)
        return loaded

    def size(self, name: str) -> int:
        return self._shards[self._shard_of[name]].size(name)

    def pieces(self, name: str) -> Iterator[bytes]:
        return self._shards[self._shard_of[name]].pieces(name)


def open_source(path: Path) -> Source:
    """Open a file of tensors by its content.

    Raises FileError (missing, empty, truncated, a lying header, not a file of
    tensors) and UnsafeFileError (a pickle that asks for code).
    """
    head = _read_head(path)
    if path.name.endswith(INDEX_SUFFIX):
        return ShardedSource(path)
    problem = _recognise_other(head)
    if problem:
        raise FileError(f"{path}: {problem}")
    if _looks_like_safetensors(head):
        return SafetensorsSource(path)
    from vaekit.checkpoints.pickles import TorchSource

    return TorchSource(path)


def regular_file(path: Path) -> Path:
    """`path` if it is a regular file that can be looked at; else FileError says what it is."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise FileError(f"{path}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise FileError(f"{path}: not a regular file")
    return path


def _read_head(path: Path) -> bytes:
    regular_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    if not head:
        raise FileError(f"{path}: the file is empty")
    return head


def _recognise_other(head: bytes) -> str | None:
    """What people give by mistake, in words; None where it may be a file of tensors."""
    start = head.lstrip()[:64].lower()
    if head.startswith(b"GGUF"):
        return "a GGUF file; VAEs are read from safetensors or PyTorch files"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page, not a model: the download went wrong (a login or licence page?)"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the model itself: fetch it with git lfs pull"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")):
        return "a picture, not a model"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "a picture, not a model"
    return None


def _looks_like_safetensors(head: bytes) -> bool:
    """Eight bytes of header length, then JSON: no pickle and no zip starts so."""
    return len(head) > 8 and head[8:9] == b"{" and not head.startswith(b"PK")


def _read_header(path: Path) -> bytes:
    """A safetensors file's header, as far as it is there; the safetensors library explains what is wrong with one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise FileError(f"{path}: its header claims an impossible length")
            return file.read(length)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


def _refuse_twins(path: Path, header: bytes, tensors: int) -> None:
    """Raise FileError for a header that tells a name twice, of which the safetensors library picks one.

    header: one that the library takes, with so many tensors in its eyes.
    """
    try:
        if not _tells_all_once(header.decode("utf-8"), tensors):
            json.loads(header, object_pairs_hook=_without_twins)
    except _TwiceError as error:
        raise FileError(f"{path}: its header lies: {error} stands in it twice") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: its header is not valid") from error


def _tells_all_once(header: str, tensors: int) -> bool:
    """Whether no name stands twice, told without looking at each; False where that is not simple.

    Every tensor has one field of offsets, and nothing but an escape could hide its name. The metadata have no such
    field in each.
    """
    if "\\u" in header or header.count('"data_offsets"') != tensors:
        return False
    metadata = [match.end() for match in _METADATA.finditer(header)]
    if len(metadata) == 1:
        _DECODER.raw_decode(header, metadata[0])
    return len(metadata) <= 1


class _TwiceError(Exception):
    pass


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _TwiceError(f"{name[:80]!r}")
            seen.add(name)
    return found


_METADATA = re.compile(r'"__metadata__"\s*:\s*')
_DECODER = json.JSONDecoder(object_pairs_hook=_without_twins)


def _read_index(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > LARGEST_HEADER:
            raise FileError(f"{index}: too large for an index")
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        items = {str(name): str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(f"{index}: not an index of safetensors files ({type(error).__name__})") from error
    for shard in items.values():
        if not shard or Path(shard).name != shard or shard == "..":
            raise FileError(f"{index}: names a file outside its folder: {shard[:80]!r}")
    return items


class _one_line:
    """Turns what safetensors raises into one FileError that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, FileError) or not isinstance(error, Exception):
            return
        raise FileError(f"{self.path}: {_explain(error)}") from error


_EXPLAINED = {
    "file not fully covered": "truncated, or its header tells other sizes than the file has",
    "invalid header length": "truncated in the middle of its header",
    "header too small": "truncated in the middle of its header",
    "header too large": "its header claims an impossible length",
    "invalid shape, data type, or offset": "its header lies: a tensor's size does not fit its shape and dtype",
    "invalid offset": "its header lies: tensors overlap or leave holes",
    "overflow computing buffer size": "its header claims an impossible shape",
    "invalid json": "its header is not valid",
    "invalid utf-8": "its header is not valid",
}


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    reason = next((words for key, words in _EXPLAINED.items() if key in text.lower()), None)
    return reason or f"cannot be read as safetensors ({text[:200] or type(error).__name__})"

"""PyTorch's own files (.ckpt, .pt, .pth, .bin), which are pickles, read so that none of them runs code.

Reading is left to torch.load(weights_only=True) of torch 2.10 or newer. Before
it, the globals that the pickle names are listed without running anything and
held against a list of our own, shorter than torch's: the second lock on the
door, and the one that can tell which global was refused.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vaekit.checkpoints.scan import globals_named
from vaekit.checkpoints.sources import Container, Source, TensorInfo
from vaekit.checkpoints.tensors import dtype_name, pieces_of
from vaekit.errors import FileError, UnsafeFileError

LARGEST_PICKLE = 64 << 20
PICKLES_OF_A_LEGACY_FILE = 5
"""A magic number, a protocol version, system information, the object, the storages' keys."""

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params", "weights")
"""Where training programs put a state dict inside what they save."""

MOST_MAPPED = 256 << 20
"""Bytes of a mapped file that may stay in memory while it is copied."""


class Inert:
    """Stands in for what trainers leave beside the weights (callbacks, numpy scalars); holds nothing, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


INERT_GLOBALS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
)

ALLOWED_GLOBALS = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|torch\.Size|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch\.([A-Za-z0-9]+Storage|storage\.(Typed|Untyped)Storage)"
    r"|torch\.(bool|(b?float|u?int|complex)\d+(_\w+)?|double|half|short|long|int|float)"
)
"""What tensors and the dicts around them are made of."""

_globals_lock = threading.Lock()


class TorchSource(Source):
    """A file written by torch.save. Tensors stay mapped on disk until they are used, where the format allows it."""

    container: Container = "torch"

    def __init__(self, path: Path):
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self.tensors = self._open()

    def _open(self) -> dict[str, TensorInfo]:
        self._state: Mapping[str, Tensor] = {}  # lets go of what was mapped before
        self._state = _find_state_dict(load_safely(self.path), self.path)
        self._copied = 0
        return {name: TensorInfo(dtype_name(t.dtype), tuple(t.shape)) for name, t in self._state.items()}

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = {name: self._state[name].detach() for name in names}
        for name, tensor in wanted.items():
            _refuse_unfolded(name, tensor, self.path)
        return wanted

    def size(self, name: str) -> int:
        tensor = self._state[name]
        return tensor.numel() * tensor.element_size()

    def pieces(self, name: str) -> Iterator[memoryview]:
        if self._copied > MOST_MAPPED and _is_zip(self.path) and self._open() != self.tensors:
            raise FileError(f"{self.path}: changed while it was read")
        self._copied += self.size(name)
        yield from pieces_of(self.load([name])[name])


def load_safely(path: Path) -> object:
    """What torch.save wrote, past both locks; tensors on the CPU. Raises FileError and UnsafeFileError."""
    _refuse_unsafe_globals(path)
    return _torch_load(path)


def _torch_load(path: Path) -> object:
    """What the file holds. Every failure of the reader on a broken file is one FileError."""
    inert: list[Any] = [(Inert, name) for name in INERT_GLOBALS]
    # torch maps only what it is given by name, and takes a name that ends so for safetensors
    mapped = _is_zip(path) and path.suffix != ".safetensors"
    try:
        with _globals_lock, torch.serialization.safe_globals(inert), path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the reader then refuses anyway
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the reader's own checks, in many kinds
        text = " ".join(str(error).split())
        if "Unsupported global" in text or "Unsupported class" in text:
            raise UnsafeFileError(f"{path}: refused, it asks for code: {_short(error)}") from error
        if "Unsupported operand" in text:
            raise FileError(f"{path}: pickled in a way that torch does not read safely; save it anew") from error
        raise FileError(f"{path}: not a PyTorch file of tensors, or a broken one ({_short(error)})") from error


def _short(error: BaseException) -> str:
    """The one sentence of torch's page of advice that tells what was wrong."""
    text = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2]
    return text.split(". ")[0][:160] or type(error).__name__


def _find_state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    """The named tensors of a saved object: at the top, or one level down under a usual name."""
    for candidate in (loaded, *(_items(loaded).get(key) for key in NESTED_UNDER)):
        named = _items(candidate).items()
        tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
        if tensors:
            return tensors
    if isinstance(loaded, Tensor):
        raise FileError(f"{path}: one bare tensor {list(loaded.shape)}, no model")
    raise FileError(f"{path}: holds no named tensors")


def _items(loaded: object) -> dict[object, object]:
    """A copy as a plain dict: a pickle may give an OrderedDict attributes that hide its methods."""
    return dict(dict.items(loaded)) if isinstance(loaded, dict) else {}


def _refuse_unfolded(name: str, tensor: Tensor, path: Path) -> None:
    """Strides of 0 make any size out of one number, and memory for it is taken on first use."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise FileError(f"{path}: {name[:80]!r} claims {list(tensor.shape)[:8]}, more than the file holds of it")


# Looking at its pickles without running them


def _refuse_unsafe_globals(path: Path) -> None:
    """Refuse a pickle that names other globals than tensors need, or that would hang its reader."""
    try:
        for pickled in _pickles_of(path):
            for name in globals_named(pickled):
                if name not in INERT_GLOBALS and not ALLOWED_GLOBALS.fullmatch(name):
                    raise UnsafeFileError(f"{path}: refused: this pickle asks to run {name[:200]!r}; nothing was run")
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileError(f"{path}: truncated or broken ({_short(error)})") from error
    except (ValueError, LookupError, OverflowError, MemoryError) as error:
        why = f" ({_short(error)})" if isinstance(error, ValueError) else ""  # the others say nothing of the file
        raise FileError(f"{path}: neither safetensors nor a PyTorch file, or truncated{why}") from error


def _pickles_of(path: Path) -> Iterator[BinaryIO]:
    """Streams that stand at the begin of each pickle which torch.load would read."""
    if _is_zip(path):
        yield io.BytesIO(_pickle_of_zip(path))
        return
    with path.open("rb") as file:
        start = io.BytesIO(file.read(LARGEST_PICKLE))
    for _ in range(PICKLES_OF_A_LEGACY_FILE):
        yield start
        if start.tell() == start.getbuffer().nbytes:
            return


def _is_zip(path: Path) -> bool:
    """As torch.load decides it; zipfile.is_zipfile also takes a pickle with a zip behind it."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _pickle_of_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(info.filename.endswith("constants.pkl") for info in records):
            raise zipfile.BadZipFile("a TorchScript program, not weights")
        pickles = [info for info in records if info.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"a zip archive with {len(pickles)} data.pkl; PyTorch's have one")
        if any(info.compress_type != zipfile.ZIP_STORED for info in records):
            raise zipfile.BadZipFile("a compressed zip archive; PyTorch's are not")
        if pickles[0].file_size > LARGEST_PICKLE:
            raise zipfile.BadZipFile("its pickle claims an impossible size")
        return archive.read(pickles[0])

"""PyTorch's own files (.ckpt, .pt, .pth, .bin), which are pickles, read so that none of them runs code.

Reading is left to torch.load(weights_only=True) of torch 2.10 or newer. Before
it, the globals that the pickle names are listed without running anything and
held against a list of our own, shorter than torch's: the second lock on the
door, and the one that can tell which global was refused.
"""

from __future__ import annotations

import io
import pickletools
import re
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vaekit.checkpoints.sources import Container, Source, TensorInfo
from vaekit.errors import FileError, UnsafeFileError

LARGEST_PICKLE = 64 << 20
MOST_OPERATIONS = 4_000_000
PICKLES_OF_A_LEGACY_FILE = 5
"""A magic number, a protocol version, system information, the object, the storages' keys."""

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params", "weights")
"""Where training programs put a state dict inside what they save."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


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
        _refuse_unsafe_globals(path)
        self._state = dict(_find_state_dict(_torch_load(path), path))
        self.tensors = {name: TensorInfo(_dtype_name(t), tuple(t.shape)) for name, t in self._state.items()}

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self._state[name].detach() for name in names}


def _dtype_name(tensor: Tensor) -> str:
    return DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.").upper())


def _torch_load(path: Path) -> object:
    """What the file holds. Every failure of the reader on a broken file is one FileError."""
    inert: list[Any] = [(Inert, name) for name in INERT_GLOBALS]
    try:
        with _globals_lock, torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (Exception, RecursionError) as error:  # the reader's own checks, in many kinds
        text = " ".join(str(error).split())
        if "Unsupported global" in text or "Unsupported class" in text:
            raise UnsafeFileError(f"{path}: refused, it asks for code: {text[:200]}") from error
        raise FileError(f"{path}: not a PyTorch file of tensors, or a broken one ({_short(error)})") from error


def _short(error: BaseException) -> str:
    first = " ".join(str(error).split()).split(". ")[0]
    return first[:160] or type(error).__name__


def _find_state_dict(loaded: object, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of a saved object: at the top, or one level down under a usual name."""
    for candidate in (loaded, *(_get(loaded, key) for key in NESTED_UNDER)):
        named = {k: v for k, v in candidate.items() if isinstance(k, str)} if isinstance(candidate, Mapping) else {}
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            yield from tensors.items()
            return
    if isinstance(loaded, Tensor):
        raise FileError(f"{path}: one bare tensor {list(loaded.shape)}, no model")
    raise FileError(f"{path}: holds no named tensors")


def _get(loaded: object, key: str) -> object:
    return loaded.get(key) if isinstance(loaded, Mapping) else None


# Looking at a pickle without running it


def _refuse_unsafe_globals(path: Path) -> None:
    for name in _globals_of(path):
        if name not in INERT_GLOBALS and not ALLOWED_GLOBALS.fullmatch(name):
            raise UnsafeFileError(f"{path}: refused: this pickle asks to run {name[:200]!r}; nothing was run")


def _globals_of(path: Path) -> Iterator[str]:
    """Every global that the pickles of a PyTorch file name, as "module.name"."""
    try:
        if zipfile.is_zipfile(path):
            for pickled in _pickles_of_zip(path):
                yield from _globals_in(io.BytesIO(pickled))
        else:
            with path.open("rb") as file:
                for _ in range(PICKLES_OF_A_LEGACY_FILE):
                    yield from _globals_in(file)
                    if file.tell() == path.stat().st_size:
                        return
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileError(f"{path}: truncated or broken ({_short(error)})") from error
    except (ValueError, IndexError, UnicodeError, OverflowError, MemoryError) as error:
        raise FileError(f"{path}: neither safetensors nor a PyTorch file, or truncated ({_short(error)})") from error


def _pickles_of_zip(path: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        inside = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
        if not inside:
            raise zipfile.BadZipFile("a zip archive, but not one of PyTorch's")
        for info in inside:
            if info.file_size > LARGEST_PICKLE:
                raise zipfile.BadZipFile("its pickle claims an impossible size")
            yield archive.read(info)


def _globals_in(file: BinaryIO) -> Iterator[str]:
    strings: list[str] = []  # in the order pushed or fetched: STACK_GLOBAL takes the last two
    memo: dict[int, str] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MOST_OPERATIONS:
            raise ValueError("a pickle of impossible length")
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif "UNICODE" in opcode.name or opcode.name == "STRING":
            strings.append(str(argument))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and strings:
            memo[_index(argument)] = strings[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            strings.append(memo.get(_index(argument), ""))


def _index(argument: object) -> int:
    return argument if isinstance(argument, int) else int(str(argument))

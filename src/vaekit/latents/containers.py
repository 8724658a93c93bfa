"""The containers that latents travel in, opened without believing them: safetensors, npz, npy, torch zips.

What a file holds is listed first (names, dtypes, shapes) and loaded only when it
is wanted. The kind is decided by the content, never by the name.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.checkpoints.pickles import load_safely
from vaekit.checkpoints.sources import SafetensorsSource, TensorInfo, regular_file
from vaekit.errors import LatentsError

LARGEST = 1 << 30
"""Bytes that an archive may unpack to; a batch of sixteen 1024² pictures in FLUX.2 takes 32 MiB."""

MOST_ARRAYS = 1024

NUMPY_DTYPES = {"f2": "F16", "f4": "F32", "f8": "F64", "O": "pickled objects"}
TORCH_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


@dataclass(frozen=True)
class Container:
    """An opened file. `tensors` tells dtype (safetensors' names) and shape; `load` reads one, on the CPU.

    A file of one nameless array (npy, torch) has it under the name "".
    """

    kind: Literal["safetensors", "npz", "npy", "torch"]
    tensors: Mapping[str, TensorInfo]
    load: Callable[[str], Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_container(path: Path) -> Container:
    """Open a file by its content.

    Raises FileError and LatentsError where it is missing, not a regular file,
    empty, broken or of no known kind, UnsafeFileError where it is a pickle that
    asks for code. Parsers of broken files may raise anything else as well; the
    caller turns that into one line.
    """
    with regular_file(path).open("rb") as file:
        head = file.read(16)
    if not head:
        raise LatentsError("the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(path)
    if head.startswith(np.lib.format.MAGIC_PREFIX):
        return _open_npy(path)
    if head[8:9] == b"{":
        return _open_safetensors(path)
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise LatentsError("a bare pickle, which could run code; write it again with torch.save or as safetensors")
    raise LatentsError("no latents: neither safetensors nor .npz, .npy or a PyTorch file")


def _open_safetensors(path: Path) -> Container:
    source = SafetensorsSource(path)

    def load(name: str) -> Tensor:
        # A copy: the tensor that safetensors gives lies in the file and would change with it.
        return source.load([name])[name].clone()

    return Container("safetensors", source.tensors, load, source.metadata)


def _open_zip(path: Path) -> Container:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        size = sum(entry.file_size for entry in entries)
        if size > LARGEST:
            raise LatentsError(f"unpacks to {size / 2**30:,.1f} GiB; latents are smaller than {LARGEST >> 30} GiB")
        if any(name.rpartition("/")[2] == "data.pkl" for name in names):
            return _open_torch(path)
        arrays = [name for name in names if name.endswith(".npy")]
        if not arrays or len(arrays) > MOST_ARRAYS:
            raise LatentsError(f"an archive of {len(names):,} files, not of latents")
        tensors = {}
        for name in arrays:
            with archive.open(name) as stream:
                tensors[name.removesuffix(".npy")] = _npy_info(stream, archive.getinfo(name).file_size)
    return Container("npz", tensors, partial(_load_npz, path))


def _load_npz(path: Path, name: str) -> Tensor:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return _read_npy(stream)


def _open_npy(path: Path) -> Container:
    with path.open("rb") as stream:
        info = _npy_info(stream, path.stat().st_size)

    def load(name: str) -> Tensor:
        with path.open("rb") as stream:
            return _read_npy(stream)

    return Container("npy", {"": info}, load)


def _npy_info(stream: IO[bytes], size: int) -> TensorInfo:
    """The header of an array in the .npy format, checked against the `size` in bytes that the array takes.

    numpy sets memory aside for whatever shape a header claims, so the claim is
    checked before numpy reads the array.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise LatentsError("an array of a numpy format that latents do not need")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    claimed = dtype.itemsize
    for side in shape:
        claimed *= side
    if not dtype.hasobject and (claimed != size - stream.tell() or min(shape, default=0) < 0):
        raise LatentsError(f"truncated, or its header lies: {list(shape)} of {dtype} do not fit {size:,} bytes")
    return TensorInfo(NUMPY_DTYPES.get(dtype.str[1:], NUMPY_DTYPES.get(dtype.kind, str(dtype))), tuple(shape))


def _read_npy(stream: IO[bytes]) -> Tensor:
    array = np.lib.format.read_array(stream, allow_pickle=False)
    native = array.astype(array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(native)


def _open_torch(path: Path) -> Container:
    loaded = load_safely(path)
    if not isinstance(loaded, Tensor):
        names = list(loaded) if isinstance(loaded, Mapping) else []
        raise not_latents([str(name) for name in names])
    if loaded.layout != torch.strided or loaded.device.type != "cpu":
        raise LatentsError(f"a {loaded.layout} tensor on {loaded.device}, not a plain one")
    if loaded.numel() * loaded.element_size() > LARGEST:
        raise LatentsError(f"its header lies: {list(loaded.shape)} is more than the file can hold")
    info = TensorInfo(TORCH_DTYPES.get(loaded.dtype, str(loaded.dtype)), tuple(loaded.shape))
    return Container("torch", {"": info}, lambda name: loaded.detach().clone(memory_format=torch.contiguous_format))


def not_latents(names: list[str]) -> LatentsError:
    """What to say of a file of weights, a cache of something else, or a dict."""
    if not names:
        return LatentsError("holds no tensor, so no latents")
    shown = ", ".join(name[:80] for name in names[:3])
    return LatentsError(f"holds {len(names):,} tensors like {shown}, not latents")

"""Where the rows of a step's result lie between passes: in memory, or in a file that is not resident.

Rows are written from top to bottom by one pass and read from top to bottom by
others. The last pass to read them lets go of them as it goes, so that what one
pass uses up makes room for what it writes. Rows are [rows, width, channels]:
channels innermost, so that a strip is one contiguous piece.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

from vaekit.errors import ResourceError

M_MMAP_THRESHOLD = -3
MAPPED_FROM, MAPPED_FROM_BEFORE = 1 << 18, 1 << 25
"""Bytes."""
BLOCK = 1 << 22
"""Bytes of a temporary file that are let go together."""
IN_A_LINE = 32
"""Numbers of two bytes in a line of the processor's cache; of four, in two."""


class Store(Protocol):
    """Rows written once from top to bottom, read by any number of passes."""

    def write(self, rows: Tensor) -> None:
        """Append rows [n, width, channels]."""

    def read(self, first: int, out: Tensor) -> None:
        """Fill `out` with as many rows, from `first` on."""

    def let_go(self, before: int) -> None:
        """Rows before this one are not needed any more."""


class Kept:
    """In memory, in chunks of rows, which go to `spare` when they are let go."""

    def __init__(self, height: int, width: int, channels: int, chunk_rows: int, spare: Spare):
        self._shape = (width, channels)
        self._height, self._chunk_rows = height, chunk_rows
        self._spare = spare
        self._chunks: list[Tensor | None] = []
        self._end = 0

    def write(self, rows: Tensor) -> None:
        done = 0
        while done < rows.shape[0]:
            place, offset = divmod(self._end, self._chunk_rows)
            if place == len(self._chunks):
                count = min(self._chunk_rows, self._height - self._end)
                self._chunks.append(self._spare.take(count, *self._shape))
            chunk = self._chunks[place]
            assert chunk is not None
            count = min(rows.shape[0] - done, chunk.shape[0] - offset)
            chunk[offset : offset + count] = rows[done : done + count]
            done += count
            self._end += count

    def read(self, first: int, out: Tensor) -> None:
        done = 0
        while done < out.shape[0]:
            place, offset = divmod(first + done, self._chunk_rows)
            chunk = self._chunks[place]
            assert chunk is not None, "rows were let go too early"
            count = min(out.shape[0] - done, chunk.shape[0] - offset)
            out[done : done + count] = chunk[offset : offset + count]
            done += count

    def let_go(self, before: int) -> None:
        whole = len(self._chunks) if before >= self._height else before // self._chunk_rows
        for place in range(whole):
            chunk, self._chunks[place] = self._chunks[place], None
            if chunk is not None:
                self._spare.give(chunk)


class Spare:
    """Chunks that one store let go, for another to take: fresh memory costs the system as much time as a copy.

    On the CPU each is a mapping of its own, which goes back to the system as a whole.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self._dtype, self._device = dtype, device
        self._chunks: list[Tensor] = []

    def give(self, chunk: Tensor) -> None:
        self._chunks.append(chunk.view(-1))

    def take(self, *shape: int) -> Tensor:
        """Uninitialised. Where nothing fits, all there is goes back first: none lies there beside the new one."""
        count = math.prod(shape)
        for place, chunk in enumerate(self._chunks):
            if chunk.numel() == count:
                return self._chunks.pop(place).view(shape)
        self.clear()
        return _empty(shape, self._dtype, self._device)

    def keep(self, size: int, count: int) -> None:
        """Let go of all but `count` chunks of `size` numbers."""
        self._chunks = [chunk for chunk in self._chunks if chunk.numel() == size][:count]

    def clear(self) -> None:
        self._chunks.clear()


class Ground:
    """One array for all passes of a run, since fresh memory costs the system as much time as a copy.

    On the CPU what a pass does not need of it goes back to the system.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, numbers: int):
        """numbers: the most that a pass needs."""
        self._dtype, self._device = dtype, device
        self._pages: mmap.mmap | None = None
        self._taken = 0
        if device.type == "cpu" and hasattr(mmap, "MADV_DONTNEED"):
            self._pages = _pages(max(1, numbers) * dtype.itemsize)
            self._array = torch.frombuffer(self._pages, dtype=dtype)

    def begin(self, numbers: int) -> None:
        """The next pass, which needs so many; what was taken before is void."""
        self._taken = 0
        if self._pages is None:
            self._array = torch.empty(0, dtype=self._dtype, device=self._device)
            self._array = self._array.new_empty(numbers)
            return
        needed = -(-numbers * self._dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        if needed < len(self._pages):
            self._pages.madvise(mmap.MADV_DONTNEED, needed, len(self._pages) - needed)

    def take(self, *shape: int) -> Tensor:
        """A part of it, uninitialised, which begins where a line of the processor's cache does."""
        first = -(-self._taken // IN_A_LINE) * IN_A_LINE
        self._taken = first + math.prod(shape)
        return self._array[first : self._taken].view(shape)


class Scratch:
    """An array that one step after the other uses; it grows to the largest, and goes with the pass."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self._array = torch.empty(0, dtype=dtype, device=device)

    def put(self, array: Tensor) -> None:
        """Begin with an array that is there."""
        self._array = array

    def take(self, *shape: int) -> Tensor:
        """Uninitialised, over what was taken before."""
        count = math.prod(shape)
        if self._array.numel() < count:
            self.clear()
            self._array = self._array.new_empty(count)
        return self._array[:count].view(shape)

    def clear(self) -> None:
        self._array = self._array.new_empty(0)


class Spilled:
    """In a temporary file that others share, through plain reads and writes: none of it counts as resident."""

    def __init__(self, width: int, channels: int, dtype: torch.dtype, file: SpillFile):
        self._row_bytes = width * channels * dtype.itemsize
        self._file = file
        self._blocks: list[int] = []
        self._end = self._gone = 0

    def write(self, rows: Tensor) -> None:
        data = _bytes_of(rows.contiguous().cpu())
        while len(self._blocks) * BLOCK < self._end + len(data):
            self._blocks.append(self._file.take())
        for block, offset, part in self._parts(self._end, data):
            self._file.write(block, offset, part)
        self._end += len(data)

    def read(self, first: int, out: Tensor) -> None:
        here = out if out.device.type == "cpu" else torch.empty_like(out, device="cpu")
        for block, offset, part in self._parts(first * self._row_bytes, _bytes_of(here)):
            self._file.read(block, offset, part)
        if here is not out:
            out.copy_(here)

    def let_go(self, before: int) -> None:
        end = before * self._row_bytes
        gone = len(self._blocks) if end >= self._end else end // BLOCK
        for block in self._blocks[self._gone : gone]:
            self._file.give(block)
        self._gone = max(self._gone, gone)

    def _parts(self, start: int, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Data that lies from `start` on, by blocks: which, where in it, and what."""
        done = 0
        while done < len(data):
            place, offset = divmod(start + done, BLOCK)
            count = min(len(data) - done, BLOCK - offset)
            yield self._blocks[place], offset, data[done : done + count]
            done += count


class SpillFile:
    """An unlinked temporary file of blocks, of which nothing is left. What one store let go another writes over: the
    system has memory for those blocks already, and fresh ones cost it twice to twenty times the time."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._blocks = 0
        self._free: list[int] = []

    def take(self) -> int:
        """A block that nothing needs."""
        if self._free:
            return self._free.pop()
        self._blocks += 1
        return self._blocks - 1

    def give(self, block: int) -> None:
        self._free.append(block)

    def write(self, block: int, offset: int, data: memoryview) -> None:
        """Raises ResourceError where the disk is full."""
        done = 0
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, prefix="vaekit-", buffering=0)  # noqa: SIM115
            while done < len(data):
                done += os.pwrite(self._file.fileno(), data[done:], block * BLOCK + offset + done)
        except OSError as error:
            raise ResourceError(f"cannot spill to {self._folder}: {error.strerror or error}") from error

    def read(self, block: int, offset: int, out: memoryview) -> None:
        assert self._file is not None
        done = 0
        while done < len(out):
            count = os.preadv(self._file.fileno(), [out[done:]], block * BLOCK + offset + done)
            if count == 0:
                raise ResourceError("a temporary file became shorter while it was in use")
            done += count

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def spill_folder() -> Path:
    """Where temporary files go: the usual folder, or /var/tmp where that one lies in memory itself."""
    usual = Path(tempfile.gettempdir())
    other = Path("/var/tmp")
    return other if _in_memory(usual) and other.is_dir() and os.access(other, os.W_OK) else usual


def free_disk(folder: Path) -> int:
    """Bytes that may be spilled there: nine tenths of what is free, none where the folder lies in memory itself."""
    if _in_memory(folder):
        return 0
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize * 9 // 10


def _in_memory(folder: Path) -> bool:
    """Whether a folder's file system is kept in memory (tmpfs)."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return False
    above = [(len(where), kind) for _, where, kind, *_ in mounts if folder.resolve().is_relative_to(where)]
    return bool(above) and max(above)[1] in ("tmpfs", "ramfs")


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu" or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(_pages(math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def _pages(count: int) -> mmap.mmap:
    """So many bytes, a mapping of their own."""
    return mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def give_back_heap() -> None:
    """What the heap holds free goes back to the system, so that earlier passes do not count against later ones."""
    _glibc("malloc_trim", 0)


@contextmanager
def steady_heap() -> Iterator[None]:
    """Arrays are mappings of their own meanwhile, given back when they go: the heap has no holes that count.

    Of glibc alone, which else raises that threshold to 32 MiB as it goes, where it is left afterwards.
    """
    give_back_heap()
    _glibc("mallopt", M_MMAP_THRESHOLD, MAPPED_FROM)
    try:
        yield
    finally:
        _glibc("mallopt", M_MMAP_THRESHOLD, MAPPED_FROM_BEFORE)


def _glibc(name: str, *values: int) -> None:
    """Call a function that other C libraries may lack."""
    function = getattr(_libc(), name, None)
    if function is not None:
        function(*values)

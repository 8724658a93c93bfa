"""Weights that lie in mapped files: given back to the system until somebody looks at them again. On Linux only."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vaekit.errors import FileError

MADV_DONTNEED = 4

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+)\s*(.*)")


@dataclass(frozen=True)
class _Mapping:
    """A part of a file in this process's memory. written: bytes of it that are not the file's any more."""

    start: int
    end: int
    offset: int
    inode: int
    path: str
    written: int


def give_back(tensors: Iterable[Tensor]) -> None:
    """What lies in mapped files leaves this process's resident memory; looked at, it is read again.

    Tensors of any other memory are left alone, and files of which something was written over.
    """
    for mapping in _mappings(tensors):
        if not mapping.written:
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(mapping.start), ctypes.c_size_t(mapping.end - mapping.start), MADV_DONTNEED
            )


def check(tensors: Iterable[Tensor]) -> None:
    """Raise FileError where a file has become too short for what is mapped of it: to look there would end the process.

    A file that was removed or replaced stays as it was for those that have mapped it.
    """
    for mapping in _mappings(tensors):
        try:
            facts = os.stat(mapping.path)
        except OSError:
            continue
        page = os.sysconf("SC_PAGE_SIZE")
        if facts.st_ino == mapping.inode and facts.st_size + page <= mapping.offset + mapping.end - mapping.start:
            raise FileError(f"{mapping.path}: has become shorter since it was loaded; load it again")


def _mappings(tensors: Iterable[Tensor]) -> list[_Mapping]:
    """The mapped files that tensors lie in."""
    places = sorted(tensor.data_ptr() for tensor in tensors if tensor.device.type == "cpu")
    return [one for one in _files() if any(one.start <= place < one.end for place in places)]


def _files() -> Iterator[_Mapping]:
    try:
        text = Path("/proc/self/smaps").read_text("utf-8", errors="replace")
    except OSError:
        return
    head: re.Match[str] | None = None
    for line in text.splitlines():
        if found := _HEAD.fullmatch(line):
            head = found if found[4] != "0" else None
        elif head is not None and line.startswith("Anonymous:"):
            start, end, offset = (int(head[place], 16) for place in (1, 2, 3))
            yield _Mapping(start, end, offset, int(head[4]), head[5], int(line.split()[1]) * 1024)

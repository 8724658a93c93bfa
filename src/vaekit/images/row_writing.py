"""PNG and TIFF files written a few rows at a time, so that a picture need never lie in memory as a whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vaekit.errors import NumericsError, OutputError
from vaekit.files import atomic_write
from vaekit.images.canvas import BLOCK, to_levels

Levels = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".tif", ".tiff")


class RowFile:
    """Takes decoded rows from top to bottom, of one picture of `size`; what lies outside of it is left out.

    Row 0 again begins anew, as a repeated decode does. Made by `write_rows`.
    """

    def __init__(self, file: BinaryIO, suffix: str, size: tuple[int, int]):
        self.size = size
        self._file, self._kind = file, _Png if suffix == ".png" else _Tiff
        self._rows: _Rows | None = None
        self._end = 0

    def write(self, first: int, rows: Tensor) -> None:
        """rows: [n, width or more, 3] in [-1, 1], from row `first` on. Raises NumericsError for NaN."""
        width, height = self.size
        if first == 0:
            self._file.seek(0)
            self._file.truncate()
            self._rows, self._end = self._kind(self._file, self.size), 0
        assert self._rows is not None and first == self._end, "rows come from top to bottom"
        self._end += rows.shape[0]
        rows = rows[: max(0, height - first), :width]
        at_once = max(1, BLOCK // (3 * width))
        for start in range(0, rows.shape[0], at_once):
            some = rows[start : start + at_once]
            if bool(some.isnan().any()):
                raise NumericsError("NaN where a picture should be; nothing can be shown")
            self._rows.add(to_levels(some).cpu().numpy())

    def finish(self) -> None:
        assert self._rows is not None and self._end >= self.size[1], "rows are missing"
        self._rows.finish()


@contextmanager
def write_rows(path: Path, size: tuple[int, int], *, force: bool = False) -> Iterator[RowFile]:
    """Write an RGB picture of `size` (width, height) by rows; whole or not at all. PNG or TIFF, by the suffix.

    Raises OutputError: another suffix, a file that exists (unless `force`), no permission, disk full.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"{path}: only {', '.join(SUFFIXES)} can be written row by row")
    with atomic_write(path, force=force) as part, part.open("w+b") as file:
        rows = RowFile(file, suffix, size)
        yield rows
        rows.finish()


class _Rows(Protocol):
    def __init__(self, file: BinaryIO, size: tuple[int, int]) -> None: ...

    def add(self, rows: Levels) -> None:
        """rows: [n, width, 3]."""

    def finish(self) -> None: ...


class _Png:
    """Of 8 bits a sample (W3C, Portable Network Graphics, third edition); each row filtered as fits it best."""

    def __init__(self, file: BinaryIO, size: tuple[int, int]):
        self._file = file
        self._deflate = zlib.compressobj(6)
        self._above = np.zeros((size[0], 3), np.uint8)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))

    def add(self, rows: Levels) -> None:
        filtered = _filtered(rows, self._above)
        self._above = rows[-1].copy()
        self._data(self._deflate.compress(filtered.tobytes()))

    def finish(self) -> None:
        self._data(self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _data(self, data: bytes) -> None:
        if data:
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _filtered(rows: Levels, above: Levels) -> Levels:
    """[n, 1 + 3 * width]: for each row the filter of PNG (Sub, Up or Paeth) that leaves the smallest numbers."""
    x = rows.astype(np.int16)
    b = np.concatenate([above[None], rows[:-1]]).astype(np.int16)
    a, c = np.zeros_like(x), np.zeros_like(x)
    a[:, 1:], c[:, 1:] = x[:, :-1], b[:, :-1]
    pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
    choices = np.stack([x - a, x - b, x - paeth]).astype(np.uint8)  # [3, n, width, 3]
    cost = abs(choices.view(np.int8).astype(np.int16)).sum((2, 3), dtype=np.int64)
    best = cost.argmin(0)
    filtered = np.empty((len(rows), 1 + rows[0].size), np.uint8)
    filtered[:, 0] = np.array([1, 2, 4], np.uint8)[best]
    filtered[:, 1:] = choices[best, np.arange(len(rows))].reshape(len(rows), -1)
    return filtered


class _Tiff:
    """Uncompressed; BigTIFF where it has to be. tifffile writes all but the pixels."""

    def __init__(self, file: BinaryIO, size: tuple[int, int]):
        import tifffile

        width, height = size
        with tifffile.TiffWriter(file, bigtiff=3 * width * height > 4 * 10**9) as tiff:
            place = tiff.write(
                None,
                shape=(height, width, 3),
                dtype="uint8",
                photometric="rgb",
                metadata=None,
                software=False,
                returnoffset=True,
            )
        assert place is not None
        file.flush()
        self._file, self._offset = file, place[0]

    def add(self, rows: Levels) -> None:
        data = np.ascontiguousarray(rows).data.cast("B")
        while data:
            count = os.pwrite(self._file.fileno(), data, self._offset)
            data, self._offset = data[count:], self._offset + count

    def finish(self) -> None:
        pass

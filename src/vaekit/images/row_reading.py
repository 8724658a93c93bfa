"""Large TIFF files read a few rows at a time, so that they need never lie in memory as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vaekit.errors import PictureError
from vaekit.images.opening import DEFAULT_MAX_PIXELS, check_pixels, damage_told, open_regular
from vaekit.images.sizes import reflected
from vaekit.images.wording import printable

LARGE = 1 << 24
"""Pixels from which on it is worth it."""


class RowPicture:
    """A TIFF of grey or RGB, 8 or 16 bits, in strips or tiles. Made by `open_rows`; a context."""

    def __init__(self, tiff: Any, file: BinaryIO, name: str):
        self._tiff, self._file, self._name = tiff, file, name
        self._page = tiff.pages[0]
        self.size: tuple[int, int] = self._page.imagewidth, self._page.imagelength
        self._white = float(2**self._page.bitspersample - 1)
        self._cached: tuple[int, np.ndarray] | None = None

    def __enter__(self) -> RowPicture:
        return self

    def __exit__(self, *_: object) -> None:
        self._tiff.close()
        self._file.close()

    def read(self, first: int, out: Tensor) -> None:
        """Fill `out` [n, width or more, 3] with rows in [-1, 1]; beyond right and bottom edge it is reflected."""
        width, height = self.size
        rows = reflected(height, max(height, first + out.shape[0]))[first:]
        columns = reflected(width, max(width, out.shape[1]))
        for i, row in enumerate(rows[: out.shape[0]].tolist()):
            values = torch.from_numpy(self._row(row).astype(np.float32)) / (self._white / 2) - 1
            out[i] = values[columns].expand(-1, 3)

    def _row(self, row: int) -> np.ndarray:
        """[width, 1 or 3]."""
        page = self._page
        length = page.tilelength if page.is_tiled else min(page.rowsperstrip, self.size[1])
        band = row // length
        if self._cached is None or self._cached[0] != band:
            self._cached = band, self._band(band, length)
        return self._cached[1][row - band * length]

    def _band(self, band: int, length: int) -> np.ndarray:
        """One row of tiles, or one strip: [length, width, 1 or 3]."""
        page, file = self._page, self._tiff.filehandle
        across = -(-self.size[0] // page.tilewidth) if page.is_tiled else 1
        out = np.zeros((length, self.size[0], page.samplesperpixel), page.dtype)
        with damage_told(self._name):
            for column in range(across):
                index = band * across + column
                file.seek(page.dataoffsets[index])
                segment, place, _ = page.decode(file.read(page.databytecounts[index]), index)
                if segment is None:
                    raise ValueError("a part of it is missing")
                left = place[3]
                part = segment[0][:length, : self.size[0] - left]
                out[: part.shape[0], left : left + part.shape[1]] = part
        return out


def open_rows(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> RowPicture | None:
    """A large TIFF that can be read by rows; None for any other file, which `read` takes.

    Colour profiles, transparency, other orientations and compressions that tifffile
    alone does not know are left to `read` too. Raises PictureError where it is over `max_pixels`.
    """
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return None
    import tifffile

    name = printable(os.fspath(path))
    file = open_regular(os.fspath(path), name)
    try:
        tiff = tifffile.TiffFile(file)
        page: Any = tiff.pages[0]
        if _readable(page):
            check_pixels(name, page.imagewidth, page.imagelength, max_pixels)
            return RowPicture(tiff, file, name)
    except PictureError:
        file.close()
        raise
    except Exception:  # damaged, or of a kind that tifffile does not know: for `read` to tell
        pass
    file.close()
    return None


def _readable(page: Any) -> bool:
    from tifffile import COMPRESSION, PHOTOMETRIC

    sound = page.dtype in (np.uint8, np.uint16) and page.bitspersample == 8 * page.dtype.itemsize
    plain = (page.samplesperpixel, page.photometric) in ((1, PHOTOMETRIC.MINISBLACK), (3, PHOTOMETRIC.RGB))
    tags = {tag.code for tag in page.tags}
    turned = 274 in tags and page.tags[274].value != 1
    return bool(
        sound
        and plain
        and page.planarconfig == 1
        and page.imagedepth == 1
        and page.compression in (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
        and page.imagewidth * page.imagelength >= LARGE
        and not turned
        and 34675 not in tags
    )

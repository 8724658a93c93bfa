"""Pictures made by hand, as bytes of every kind of file, and what the tests want to know of one that was read."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import images
from vaekit.errors import PictureError


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int = 16, width: int = 24) -> np.ndarray:
    """Gentle colours, different in every corner, that lossy formats keep well."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([40 + 170 * x, 40 + 170 * y, 200 - 150 * x * y], -1).round().astype(np.uint8)


def levels(read: images.Pictures) -> np.ndarray:
    """[H, W, 3] in 0..255, not rounded."""
    assert read.pixels.dtype == torch.float32
    assert read.pixels.min() >= -1 and read.pixels.max() <= 1
    return ((read.pixels[0].permute(1, 2, 0).double() + 1) * 127.5).numpy()


def alpha_of(read: images.Pictures) -> np.ndarray:
    assert read.alpha is not None and read.alpha.dtype == torch.uint8
    return read.alpha[0, 0].numpy()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, for kinds that Pillow reads but does not write. rows: with filter bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(PictureError) as caught:
        images.read(source, **options)
    told = str(caught.value)
    assert told and "\n" not in told
    return told


def icc(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 ICC profile from its tags (ICC.1:2001-04)."""
    tags = {b"desc": b"desc" + struct.pack(">4xI", 13) + b"Test profile\0" + bytes(78), **tags}
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4xI", offset + len(body), 0x02400000) + kind + space + connection + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + white.ljust(60, b"\0") + struct.pack(">I", len(tags)) + table + body


P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])


def curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">4xIH", 1, round(gamma * 256))


def p3_profile(gamma: float = 2.2) -> bytes:
    """Display P3's primaries (adapted to D50) with a plain power as its curve."""
    columns = {
        name: b"XYZ " + struct.pack(">4x3i", *(round(value * 65536) for value in column))
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), P3.T, strict=True)
    }
    return icc(b"mntr", b"RGB ", b"XYZ ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma)))


def grey_profile(gamma: float) -> bytes:
    return icc(
        b"mntr", b"GRAY", b"XYZ ", {b"wtpt": b"XYZ " + struct.pack(">4x3i", 63190, 65536, 54061), b"kTRC": curve(gamma)}
    )


def cmyk_profile() -> bytes:
    """Inks of a strange press: cyan prints a middle grey (L* 50), black prints black, the others nothing."""
    grid = [[0 if k else 128 if c else 255, 128, 128] for c in (0, 1) for _ in range(4) for k in (0, 1)]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = (
        b"mft1" + struct.pack(">4x4B", 4, 3, 2, 0) + identity + ramp * 4 + np.array(grid, np.uint8).tobytes() + ramp * 3
    )
    yellowish_paper = b"XYZ " + struct.pack(">4x3i", 55000, 57000, 30000)
    return icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"wtpt": yellowish_paper})


SMALL = {
    "png": encoded(Image.fromarray(smooth()), "PNG"),
    "png palette": encoded(Image.fromarray(smooth()).quantize(8), "PNG", transparency=2),
    "apng": encoded(Image.fromarray(smooth()), "PNG", save_all=True, append_images=[Image.new("RGB", (24, 16))]),
    "png 16": encoded(Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24)), "PNG"),
    "png icc": encoded(Image.fromarray(smooth()), "PNG", icc_profile=p3_profile()),
    "jpeg": encoded(Image.fromarray(smooth()), "JPEG"),
    "jpeg progressive": encoded(
        Image.fromarray(smooth()), "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    ),
    "jpeg cmyk": encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
    "gif": encoded(Image.fromarray(smooth()), "GIF", save_all=True, append_images=[Image.new("RGB", (24, 16))]),
    "webp": encoded(Image.fromarray(smooth()), "WEBP"),
    "webp lossless": encoded(Image.fromarray(noise(8, 8, 4)), "WEBP", lossless=True),
    "avif": encoded(Image.fromarray(smooth()), "AVIF"),
    "tiff": encoded(Image.fromarray(smooth()), "TIFF"),
    "tiff lzw": encoded(Image.fromarray(smooth()), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(Image.fromarray(smooth()), "BMP"),
    "jpeg 2000": encoded(Image.fromarray(smooth()), "JPEG2000"),
    "qoi": encoded(Image.fromarray(smooth()), "QOI"),
}

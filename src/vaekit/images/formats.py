"""The kinds of picture files that are read."""

from __future__ import annotations

# Left out on purpose: formats that start other programs (EPS), formats without a
# signature (TGA, PCX), for which any bytes could pass as a picture, and those that
# Pillow decodes as it opens them (ICO), before anyone can look at their size.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "PSD", "QOI")
SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".ppm", ".psd", ".qoi", ".tif", ".tiff", ".webp"}
)

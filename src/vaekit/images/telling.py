"""The text in a picture's file that tells how the picture was made, where A1111 keeps it."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "parameters"
"""Of the text chunk of a PNG."""

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
UNICODE = b"UNICODE\0"
"""What the comment begins with, by the standard of Exif 2.3, section 4.6.5; the rest is UTF-16."""


def text_options(format: str, text: str) -> dict[str, Any]:
    """What Pillow's save takes for a file of that format to hold the text; nothing where there is no place."""
    if format == "PNG":
        info = PngInfo()
        info.add_text(KEY, text)
        return {"pnginfo": info}
    if format in ("JPEG", "WEBP", "AVIF"):
        exif = Image.Exif()
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + text.encode("utf-16-be", "replace")
        return {"exif": exif.tobytes()}
    return {}


def read_text(path: str | os.PathLike[str]) -> str:
    """The text in a picture's file; empty where there is none. Raises PictureError for what is no picture."""
    from vaekit.images.formats import FORMATS
    from vaekit.images.opening import damage_told, open_regular, pillow
    from vaekit.images.wording import printable

    name = printable(os.fspath(path))
    with open_regular(os.fspath(path), name) as file, damage_told(name), pillow(None):
        image = Image.open(file, formats=FORMATS)
        told = image.info.get(KEY)
        return told if isinstance(told, str) else _comment(image.getexif())


def _comment(exif: Image.Exif) -> str:
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    if not isinstance(comment, bytes) or not comment.startswith(UNICODE):
        return ""
    text = comment.removeprefix(UNICODE)
    little = text[1:2] == b"\0" and text[:1] != b"\0"
    return text.decode("utf-16-le" if little else "utf-16-be", "replace")

"""Picture files and PIL pictures, opened so that hostile ones do no harm."""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from vaekit.errors import PictureError, VaekitError
from vaekit.images.channels import from_decoded
from vaekit.images.decoding import decode
from vaekit.images.formats import FORMATS
from vaekit.images.pictures import Pictures
from vaekit.images.wording import one_line, printable

DEFAULT_MAX_PIXELS = 178_956_970  # where Pillow itself starts to refuse

_RAISE_LIMIT = "raise the limit with max_pixels= (--max-pixels) if you trust the file"
_PILLOW = threading.Lock()


def from_file(path: str, name: str, max_pixels: int) -> Pictures:
    """A file of one of FORMATS, decided by its content."""
    with open_regular(path, name) as file:
        with damage_told(name), pillow(None):
            image = Image.open(file, formats=FORMATS)
        return from_image(image, name, max_pixels)


def from_image(image: Image.Image, name: str, max_pixels: int) -> Pictures:
    """A PIL picture, decoded or not yet, refused before it is decoded where it is too large."""
    width, height = image.size
    check_pixels(name, width, height, max_pixels)
    if not width * height:
        raise PictureError(f"{name}: has no pixels ({width}×{height})")
    with damage_told(name):
        with pillow(max_pixels):
            decoded, notes = decode(image)
        return from_decoded(decoded, name, notes)


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height as the header of a picture's file tells them, before it is turned. Raises PictureError."""
    name = printable(os.fspath(path))
    with open_regular(os.fspath(path), name) as file, damage_told(name), pillow(None):
        return Image.open(file, formats=FORMATS).size


def check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    """Raise PictureError for a picture over the limit."""
    if width * height > max_pixels:
        raise PictureError(
            f"{name}: {width}×{height} is {width * height:,} pixels, the limit is {max_pixels:,}; {_RAISE_LIMIT}"
        )


def open_regular(path: str, name: str) -> BinaryIO:
    """Anything but a regular file is refused unopened: a pipe would wait for ever, a device never end."""
    try:
        facts = os.stat(path)
        if stat.S_ISDIR(facts.st_mode):
            raise PictureError(f"{name}: is a folder; name a picture file")
        if not stat.S_ISREG(facts.st_mode):
            raise PictureError(f"{name}: is a device, pipe or socket; only plain files are read")
        if facts.st_size == 0:
            raise PictureError(f"{name}: is empty")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file") from error
    except OSError as error:
        raise PictureError(f"{name}: cannot be opened: {error.strerror or error}") from error
    except ValueError as error:  # a null byte, or characters the file system cannot store
        raise PictureError(f"{name}: no file can have this name ({one_line(error)})") from error


@contextmanager
def pillow(max_pixels: int | None) -> Iterator[None]:
    """Pillow with one limit, no warnings, and truncated files refused; then its globals as they were.

    Its limit is a global with two thresholds, a warning and an error, and other
    code in the process may have changed it or allowed truncated files. Both it
    and Python's warning filters belong to the whole process, hence the lock.
    """
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    try:
        yield
    except VaekitError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise PictureError(f"{name}: not a picture, or its header is damaged; vaekit reads {known}") from error
    except MemoryError as error:
        raise PictureError(f"{name}: not enough memory to decode it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name}: a part of it is over the limit ({one_line(error)}); {_RAISE_LIMIT}") from error
    except Exception as error:  # on damaged data Pillow's readers raise nearly anything
        raise PictureError(f"{name}: damaged, cut short or unsupported ({one_line(error)})") from error

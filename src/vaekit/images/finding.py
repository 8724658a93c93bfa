"""The files that a command's arguments mean."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from vaekit.errors import PictureError
from vaekit.images.formats import SUFFIXES
from vaekit.images.wording import one_line, printable


def find(patterns: Sequence[str], *, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The files that a command's arguments mean, without duplicates, in the order given.

    patterns: files (whatever their suffix), folders (the files directly inside
    that have one of `suffixes`), and globs (likewise; `**` goes into subfolders).
    Folders and globs are sorted as people count: 2.png before 10.png.

    Raises PictureError for the first pattern that means nothing, or if there is none.
    """
    if not patterns:
        raise PictureError("nothing to read was given: name files, folders or globs")
    found: dict[str, Path] = {}
    for pattern in patterns:
        for path in _expand(pattern, suffixes):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(pattern: str, suffixes: Collection[str]) -> list[Path]:
    name = printable(pattern)
    path = Path(pattern)
    try:
        if pattern and path.is_dir():
            found = _wanted(path.iterdir(), suffixes)
        elif pattern and path.exists():
            found = [path]
        elif glob.has_magic(pattern):
            found = _wanted(map(Path, glob.iglob(pattern, recursive=True)), suffixes)
        else:
            raise PictureError(f"{name}: no such file or folder")
    except (OSError, ValueError) as error:
        raise PictureError(f"{name}: {getattr(error, 'strerror', None) or one_line(error)}") from error
    if not found:
        raise PictureError(f"{name}: nothing found here that ends in {', '.join(sorted(suffixes))}")
    return found


def _wanted(paths: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    wanted = (p for p in paths if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
    return sorted(wanted, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split("([0-9]+)", str(path).casefold())
    return [int(part) if part.isdigit() and part.isascii() else part for part in parts], str(path)

"""Writing files so that a stop in the middle leaves nothing, and nothing is overwritten unasked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.errors import OutputError


def check_target(path: Path, *, force: bool) -> None:
    """Raise OutputError now if `path` could not be written later; call it before the expensive part."""
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise OutputError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise OutputError(f"{str(path)!r}: {error}") from error
    if is_folder:
        raise OutputError(f"{path}: is a folder; name a file")
    if exists and not force:
        raise OutputError(f"{path}: exists already; --force overwrites it")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{path}: no permission to write in {parent}")


@contextmanager
def atomic_write(path: Path, *, force: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on success it becomes `path`, else it goes.

    The temporary name keeps the suffix, so that libraries which choose a format
    by it do so. Missing folders are made. lasting: wait until the disk has it,
    which can take longer than everything else; what is soon replaced need not.
    Raises OutputError (exists, no permission, disk full).
    """
    check_target(path, force=force)
    part = path.with_name(f".{path.stem[:100]}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if lasting:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        check_target(path, force=force)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}; nothing was written") from error
    finally:
        part.unlink(missing_ok=True)

"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.errors import OutputError


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise OutputError now if results could not be put into `folder` later; call it before the expensive part."""
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is a file; name a folder")
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise OutputError(
                f"{folder}: exists and is not empty; name another folder, or --force adds to what is there"
            )
        parent = next(above for above in folder.absolute().parents if above.exists())
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise OutputError(f"{str(folder)!r}: {error}") from error
    if not parent.is_dir():
        raise OutputError(f"{folder}: {parent} is not a folder")
    if not os.access(folder if folder.is_dir() else parent, os.W_OK):
        raise OutputError(f"{folder}: no permission to write there")


@contextmanager
def staged_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary folder beside `folder` to write into; on success its files move into place, else it goes.

    Files in `folder` that have other names than the new ones stay as they
    are. Raises OutputError (not empty without force, no permission, disk full).
    """
    check_folder(folder, force=force)
    stage = folder.absolute().with_name(f".{folder.absolute().name[:100]}.{os.getpid()}.part")
    try:
        stage.mkdir(parents=True)
        yield stage
        check_folder(folder, force=force)
        _move_into_place(stage, folder)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move_into_place(stage: Path, folder: Path) -> None:
    if not folder.exists():
        stage.rename(folder)
        return
    taken = [path.name for path in stage.iterdir() if (folder / path.name).is_dir()]
    if taken:
        raise OutputError(f"{folder / taken[0]}: is a folder, and the demo needs that name; name another folder")
    for path in sorted(stage.iterdir()):
        path.replace(folder / path.name)

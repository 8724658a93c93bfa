"""What is told to clients names models, and no folders of this machine."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vaekit import folders
from vaekit.catalog.library import printable

FOLDERS = re.compile(r"(?<![\w.:/~])/(?:[^\s/:;,'\"()]+/)+(?=[^\s/])")
"""The folders before a file, in a path that begins at the root; addresses have a scheme before it."""


def without_folders(value: Any, names: Mapping[Path, str], roots: Iterable[Path] = ()) -> Any:
    """The same text, or plain values of JSON with texts in them, with names in the place of paths.

    names: of known files and folders, what they are called; other files keep their own name, below one of the roots
    with what lies between.
    """
    known = {printable(path): name for path, name in names.items()}
    known |= {f"{printable(root)}/": "" for root in (*roots, *_usual()) if root != root.parent}
    return _replaced(value, sorted(known.items(), key=lambda pair: -len(pair[0])))


def _usual() -> list[Path]:
    return [Path(tempfile.gettempdir()), folders.config(), folders.downloads(), Path.home()]


def _replaced(value: Any, known: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, known) for one in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    for path, name in known:
        value = value.replace(path, name)
    return FOLDERS.sub("", value)

"""Short hashes by which A1111 names models: the first ten letters of a file's SHA-256, computed once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vaekit import folders
from vaekit.errors import FileError, OutputError
from vaekit.files import atomic_write

log = logging.getLogger("vaekit")

LETTERS = 10


def short_hash(path: Path) -> str:
    """Of a file its SHA-256, of a diffusers folder that of its weights one after the other; the first ten letters.

    What was computed is kept in the cache folder until a file changes. Raises FileError.
    """
    files = _weights(path) if path.is_dir() else [path]
    try:
        stamp = "|".join(f"{file.absolute()}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)
        known = _known()
        if stamp not in known:
            known[stamp] = _sha256(files)
            _keep(known)
        return known[stamp][:LETTERS]
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


def _weights(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".safetensors", ".bin", ".ckpt", ".pt")]
    return files or sorted(file for file in folder.rglob("*") if file.is_file())


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()


def _path() -> Path:
    return folders.cache() / "hashes.json"


def _known() -> dict[str, str]:
    try:
        loaded = json.loads(_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in loaded.items()} if isinstance(loaded, dict) else {}


def _keep(known: dict[str, str]) -> None:
    """A cache that cannot be written costs time and nothing else."""
    with suppress(OutputError), atomic_write(_path(), force=True) as part:
        part.write_text(json.dumps(known), "utf-8")

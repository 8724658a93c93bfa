"""From places to the files and folders in them that may be models; nothing is opened yet."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaekit.catalog.places import Place
from vaekit.checkpoints.locate import DIFFUSERS_STEM, SHARD, WEIGHT_SUFFIXES
from vaekit.checkpoints.sources import INDEX_SUFFIX
from vaekit.errors import FileError

SKIPPED = frozenset(("venv", "site-packages", "node_modules", "__pycache__"))
"""Folders in which programs keep files that look like weights and are none."""

DOWNLOADING = (".part", ".partial", ".crdownload", ".download", ".aria2", ".incomplete", ".tmp")
"""What programs put behind the name of a file until it is whole."""

_OF_TRANSFORMERS = re.compile(r"(pytorch_model|model|tf_model|flax_model)\b")

Stamp = tuple[int, int, int]
"""Bytes, and when the content and when anything else of it (its permissions) changed, in nanoseconds.

Another stamp is another file. On Windows the third number is when it was made.
"""


@dataclass(frozen=True)
class Found:
    """A file or folder that may be a model. name: with `/`, from its place on; problem: why it cannot be opened."""

    path: Path
    place: Place
    name: str
    stamp: Stamp = (0, 0, 0)
    problem: str | None = None
    unfinished: bool = False


def walk(places: Iterable[Place]) -> Iterator[Found]:
    """Everything in these places, each folder once however many ways (links, loops) lead to it."""
    visited: set[tuple[int, int]] = set()
    for place in places:
        waiting = [place.folder]
        while waiting:
            folder = waiting.pop()
            try:
                status = folder.stat()
                here = (status.st_dev, status.st_ino)
                listed = [] if here in visited else sorted(os.scandir(folder), key=lambda entry: entry.name)
                visited.add(here)
            except OSError as error:
                yield Found(folder, place, _name(folder, place), problem=_explain(error))
                continue
            listing = _Listing(folder, place, listed)
            waiting += reversed(listing.folders)
            yield from listing.found()


def found_at(path: Path) -> Found:
    """One file or folder that was named by its path. Raises FileError where there is none."""
    place = Place(path.parent, "named")
    try:
        return Found(path, place, path.name, _stamp_of(path))
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{str(path)!r}: {getattr(error, 'strerror', None) or error}") from error


class _Listing:
    """What is in one folder."""

    def __init__(self, folder: Path, place: Place, entries: Sequence[os.DirEntry[str]]):
        self.folder, self.place = folder, place
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        self.files = {entry.name: entry for entry in shown if not _is_folder(entry)}
        inside = [entry.name for entry in shown if entry.name not in self.files and entry.name not in SKIPPED]
        self.is_pipeline = "model_index.json" in self.files
        self.is_component = "config.json" in self.files and any(n.startswith(DIFFUSERS_STEM) for n in self.files)
        # the parts of a diffusers pipeline are one model
        self.folders = [] if self.is_pipeline else [folder / name for name in inside]

    def found(self) -> Iterator[Found]:
        if self.is_pipeline or self.is_component:
            yield self._whole_folder()
        for name, entry in self.files.items():
            ending = next((e for e in DOWNLOADING if name.lower().endswith(e)), "")
            whole = name[: len(name) - len(ending)]
            if ending and _is_weights(whole) and whole not in self.files:
                yield self._file(entry, unfinished=True)
            elif _is_weights(name) and not self._belongs_to_another(name):
                yield self._file(entry, unfinished=f"{name}.aria2" in self.files)

    def _belongs_to_another(self, name: str) -> bool:
        """Weights that a folder, an index or another program's model already stands for."""
        if self.is_component and name.startswith(DIFFUSERS_STEM):
            return True
        if "config.json" in self.files and _OF_TRANSFORMERS.match(name):
            return True
        return bool(SHARD.fullmatch(name)) and any(other.endswith(INDEX_SUFFIX) for other in self.files)

    def _file(self, entry: os.DirEntry[str], *, unfinished: bool) -> Found:
        path = self.folder / entry.name
        name = _name(path, self.place)
        try:
            status = entry.stat()
        except OSError as error:
            return Found(path, self.place, name, problem=_explain(error, link=entry.is_symlink()))
        return Found(path, self.place, name, _stamp_from(status), unfinished=unfinished)

    def _whole_folder(self) -> Found:
        name = _name(self.folder, self.place)
        try:
            return Found(self.folder, self.place, name, _stamp_of(self.folder))
        except OSError as error:
            return Found(self.folder, self.place, name, problem=_explain(error))


def _stamp_of(path: Path) -> Stamp:
    """Of a file, or of everything that decides what a diffusers folder is."""
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return _stamp_from(status)
    weights = path / "vae" if (path / "vae").is_dir() else path
    index = path / "model_index.json"
    parts = path.glob("*/*") if index.is_file() else ()
    beside = {*weights.iterdir(), index, path.parent / index.name, *parts}
    stamps = [_stamp_from(file.stat()) for file in beside if file.is_file()] or [(0, 0, 0)]
    sizes, changed, touched = zip(*stamps, strict=True)
    return sum(sizes), max(changed), max(touched)


def _stamp_from(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_weights(name: str) -> bool:
    return name.lower().endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX))


def _name(path: Path, place: Place) -> str:
    inside = path.relative_to(place.folder).parts
    return "/".join((place.label, *inside) if place.label else inside) or path.name


def _explain(error: OSError, *, link: bool = False) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link to a file that is not there" if link else "vanished while it was listed"
    return error.strerror or str(error)

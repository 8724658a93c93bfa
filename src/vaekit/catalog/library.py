"""The VAEs and checkpoints on this disk."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vaekit import assets
from vaekit.catalog import known
from vaekit.catalog.index import Index, Prints, Row
from vaekit.catalog.known import Catalog, CatalogEntry, nearest
from vaekit.catalog.looking import Facts, Kind, Looker
from vaekit.catalog.places import DOWNLOADS, Place, Role, places
from vaekit.catalog.walking import Found, Stamp, found_at, walk
from vaekit.checkpoints.locate import WEIGHT_SUFFIXES, locate
from vaekit.checkpoints.sources import INDEX_SUFFIX
from vaekit.errors import FileError, OptionError, VaekitError

Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through items and shows how far it is; what is done with them, in words."""

BUNDLED = "bundled"
RECENT = 600.0
"""Seconds after a change in which a truncated file is perhaps still being written."""


@dataclass(frozen=True)
class Entry:
    """One model on this disk.

    name: from its folder of models on; families: those it can belong to; known: its
    name in the catalog, once its hash or fingerprint told; decoder: a second file
    that holds that half (TAESD).
    """

    name: str
    path: Path
    program: str
    role: Role
    stamp: Stamp
    facts: Facts
    families: tuple[str, ...] = ()
    prints: Prints | None = None
    known: str | None = None
    decoder: Path | None = None

    @property
    def kind(self) -> Kind:
        return self.facts.kind

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stamp[0]

    @property
    def fingerprint(self) -> str | None:
        """Of the VAE's weights, if they were read before."""
        return (self.prints.vae or None) if self.prints else None

    @property
    def sha256(self) -> str | None:
        """Of the file, if it holds a VAE alone and was read before."""
        return self.prints.sha256 if self.prints else None

    @property
    def names(self) -> frozenset[str]:
        """What it is called by: its name from the folder of models on, that of the file, and that without ending."""
        last = self.name.rpartition("/")[2]
        return frozenset((self.name, last, stem(last)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = {"name": printable(self.name), "path": printable(self.path), "program": self.program, "role": self.role}
        facts = {key: value for key, value in self.facts.to_dict().items() if key != "families"}
        prints = asdict(self.prints) if self.prints else {}
        return told | {
            "size": self.size,
            "decoder_file": printable(self.decoder) if self.decoder else None,
            "families": list(self.families),
            "known": self.known,
            "fingerprint": self.fingerprint,
            "encoder_fingerprint": prints.get("encoder"),
            "decoder_fingerprint": prints.get("decoder"),
            "sha256": self.sha256,
            **facts,
        }


def scan(
    where: Sequence[Place] | None = None,
    *,
    catalog: Catalog | None = None,
    index: Index | None = None,
    track: Track | None = None,
) -> Library:
    """Look for models in these places (default: every usual one), and at those that are new or changed.

    Headers only: no weight is read, and torch is imported for PyTorch's own files
    alone. Raises FileError where the user's own file of VAEs or of families has a mistake.
    """
    catalog = catalog if catalog is not None else known.catalog()
    index = index if index is not None else Index()
    bundled = [Place(assets.path("models"), BUNDLED, "vae")] if assets.bundled_models() else []
    found = list(walk([*bundled, *(places() if where is None else where)]))
    library = Library(catalog, index)
    library.add(found, track or _untracked)
    return library


class Library:
    """What `scan` found, and what is known of it. Files named by path can be looked at through it too."""

    def __init__(self, catalog: Catalog, index: Index):
        self.catalog = catalog
        self._index = index
        self._looker = Looker()
        self._entries: dict[Path, Entry] = {}

    @property
    def entries(self) -> list[Entry]:
        """Everything that was found, broken files and those of other kinds included."""
        return list(self._entries.values())

    def of_kind(self, *kinds: Kind) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind in kinds]

    @property
    def vaes(self) -> list[Entry]:
        """Those that are a VAE and nothing else."""
        return self.of_kind("vae")

    @property
    def checkpoints(self) -> list[Entry]:
        return self.of_kind("checkpoint")

    @property
    def broken(self) -> list[Entry]:
        """What cannot be read, with the reason as note; unfinished downloads among them."""
        return self.of_kind("broken", "unfinished")

    def named(self, name: str, *kinds: Kind) -> list[Entry]:
        """Those with exactly this name."""
        return [entry for entry in self.of_kind(*kinds) if name in entry.names]

    def about(self, name: str | Path) -> tuple[list[Entry], CatalogEntry | None]:
        """What is on this disk under a name or at a path, and what the catalog knows of it. Raises OptionError."""
        entries = [self.look(name)] if isinstance(name, Path) else [e for e in self.entries if name in e.names]
        known_as = next((entry.known for entry in entries if entry.known), None)
        published = self.catalog.get(known_as or str(name))
        if not entries and published is None:
            names = {other for entry in self.entries for other in entry.names}.union(self.catalog.names())
            raise OptionError(f"nothing is called {str(name)[:100]!r}; {nearest(str(name), names)}")
        return entries or [e for e in self.vaes if published and e.known == published.name], published

    def groups(self, entries: Iterable[Entry]) -> list[list[Entry]]:
        """Those with one fingerprint together; one whose weights were never read stands alone."""
        together: dict[object, list[Entry]] = defaultdict(list)
        for entry in entries:
            together[entry.fingerprint or entry.path].append(entry)
        return list(together.values())

    def copies(self, entry: Entry) -> list[Entry]:
        """The others with the same weights, baked ones too; none before its fingerprint is known."""
        same = entry.fingerprint
        return [e for e in self.entries if same and e.fingerprint == same and e.path != entry.path]

    def look(self, path: Path) -> Entry:
        """One file or diffusers folder, in the library or not. Raises FileError where there is none."""
        path = Path(os.path.abspath(path))
        if path not in self._entries:
            self.add([found_at(path)], _untracked)
        return self._entries[path]

    def recognise(self, entry: Entry) -> Entry:
        """The same with its name in the catalog; its file is hashed only if it is as long as a published one."""
        if entry.known or entry.sha256 or entry.kind != "vae" or entry.decoder:
            return entry
        weights = _single_file(entry)
        if weights is None or found_at(weights).stamp[0] not in self.catalog.sizes():
            return entry
        return self._remember(entry, replace(entry.prints or Prints(), sha256=_sha256(weights)))

    def fingerprint(self, entry: Entry) -> Entry:
        """The same with fingerprint and hash: its VAE's weights are read, once for all runs."""
        if entry.fingerprint or not entry.facts.has_vae:
            return entry
        return self._remember(entry, _read_prints(entry))

    def fingerprint_all(self, track: Track | None = None) -> None:
        """Read the weights of every VAE that was not read before, baked ones too."""
        unread = [e for e in self.of_kind("vae", "checkpoint") if e.facts.has_vae and not e.fingerprint]
        for entry in (track or _untracked)(unread, "reading VAEs"):
            self.fingerprint(entry)

    def on_this_disk(self, wanted: CatalogEntry) -> Entry | None:
        """A file that holds this published VAE, told by hash or fingerprint."""
        for entry in self.vaes:
            with suppress(FileError):  # gone meanwhile, or unreadable
                recognised = self.recognise(entry)
                if recognised.known == wanted.name:
                    return recognised
        return None

    def add(self, found: Sequence[Found], track: Track) -> None:
        """Look at what is new or changed since it was last looked at, and remember it."""
        remembered = self._index.read() if found else {}
        rows = {f.path: row for f in found if (row := remembered.get(f.path)) and row.stamp == f.stamp}
        unknown = [f for f in found if not (f.problem or f.unfinished) and rows.get(f.path, Row(f.stamp)).facts is None]
        fresh: dict[Path, Row] = {}
        try:
            for new in track(unknown, "looking at new files") if unknown else ():
                fresh[new.path] = replace(rows.get(new.path, Row(new.stamp)), facts=self._looker.look(new.path))
        finally:
            self._index.write(fresh)
        rows |= fresh
        for entry in _in_pairs(self._entry(f, rows.get(f.path)) for f in found):
            row = remembered.get(_key(entry)) if entry.decoder else None
            known_pair = row is not None and row.stamp == entry.stamp
            self._entries[entry.path] = self._with_prints(entry, row.prints) if row and known_pair else entry

    def _entry(self, found: Found, row: Row | None) -> Entry:
        looked_at = row.facts if row and not found.unfinished else None
        facts = looked_at or _facts_without_looking(found)
        if facts.kind == "broken" and "truncated" in facts.note and time.time() - found.stamp[1] / 1e9 < RECENT:
            facts = replace(facts, note=f"{facts.note}; it changed a moment ago: still being downloaded?")
        role = found.place.role_of(found.name)
        entry = Entry(found.name, found.path, found.place.program, role, found.stamp, facts)
        if entry.program in (BUNDLED, DOWNLOADS):  # put there by us, under the name in the catalog
            entry = replace(entry, known=stem(found.name.split("/")[0]))
        return self._with_prints(entry, row.prints if row else None)

    def _with_prints(self, entry: Entry, prints: Prints | None) -> Entry:
        if prints and prints.problem:
            entry = replace(entry, facts=replace(entry.facts, kind="broken", note=prints.problem))
        sha256, fingerprint = (prints.sha256, prints.vae) if prints else (None, None)
        published = self.catalog.recognise(sha256=sha256, fingerprint=fingerprint)
        published = published or self.catalog.entries.get(entry.known or "")
        families = (published.family,) if published else entry.facts.families
        return replace(entry, prints=prints, known=published.name if published else None, families=families)

    def _remember(self, entry: Entry, prints: Prints) -> Entry:
        self._index.write({_key(entry): Row(entry.stamp, entry.facts, prints)})
        self._entries[entry.path] = self._with_prints(entry, prints)
        return self._entries[entry.path]


def stem(name: str) -> str:
    """A model's file name without its ending."""
    ending = next((e for e in (INDEX_SUFFIX, *WEIGHT_SUFFIXES) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)] or name


def printable(name: str | Path) -> str:
    """A name as it can be shown and stored: control characters and bytes that are no text become U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))


def _untracked(items: Sequence[Any], what: str) -> Iterable[Any]:
    return items


def _key(entry: Entry) -> Path:
    """Where the index keeps it: under its path, a pair under both."""
    return entry.path.with_name(f"{entry.path.name}+{entry.decoder.name}") if entry.decoder else entry.path


def _facts_without_looking(found: Found) -> Facts:
    if found.unfinished:
        return Facts("unfinished", note="a download that has not finished")
    return Facts("broken", note=found.problem or "not looked at")


def _in_pairs(entries: Iterable[Entry]) -> list[Entry]:
    """TAESD's encoder and decoder files, which belong together, as one."""
    rest = {entry.path: entry for entry in entries}
    halves = {(e.path.parent, stem(e.path.name)): e for e in rest.values() if e.facts.network == "tiny"}
    for (folder, name), encoder in halves.items():
        base = name.removesuffix("encoder")
        decoder = halves.get((folder, f"{base}decoder"))
        if base == name or decoder is None or encoder.facts.decoder or decoder.facts.encoder:
            continue
        del rest[decoder.path]
        above = encoder.name.rpartition("/")[0]
        rest[encoder.path] = replace(
            encoder,
            name=f"{above}/{base.rstrip('_-.') or folder.name}".removeprefix("/"),
            decoder=decoder.path,
            stamp=(
                encoder.size + decoder.size,
                max(encoder.stamp[1], decoder.stamp[1]),
                max(encoder.stamp[2], decoder.stamp[2]),
            ),
            facts=replace(encoder.facts, decoder=True),
        )
    return list(rest.values())


def _single_file(entry: Entry) -> Path | None:
    """The one file that holds all of a VAE's weights; None where there are several."""
    weights = locate(entry.path).weights
    return None if entry.decoder or weights.name.endswith(INDEX_SUFFIX) else weights


def _read_prints(entry: Entry) -> Prints:
    from vaekit.checkpoints.fingerprint import fingerprint
    from vaekit.checkpoints.read import read

    try:
        found = fingerprint(read(entry.path, decoder=entry.decoder).state)
        weights = _single_file(entry) if entry.kind == "vae" else None
        sha256 = _sha256(weights) if weights else None
    except VaekitError as error:
        return Prints(problem=str(error).removeprefix(f"{entry.path}: "))
    return Prints(found.vae, found.encoder, found.decoder, sha256)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error

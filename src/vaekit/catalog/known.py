"""The published VAEs: what is known of each. The facts stand in catalog.toml, which a user's own file extends."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from vaekit import assets, folders, tables
from vaekit.errors import OptionError
from vaekit.families import families
from vaekit.tables import Tables

VARIABLE = "VAEKIT_CATALOG"
RESERVED = ("automatic", "none")
"""Words that ask for something else than a name."""

Name = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)
Sha256 = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class CatalogFile(BaseModel):
    """One file to fetch: from the hub (hub, file, revision), from a url, or from Civitai (MODEL@VERSION)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    file: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    url: str | None = Field(default=None, pattern=r"^https://[^\s]+$")
    civitai: str | None = Field(default=None, pattern=r"^\d+@\d+$")
    size: PositiveInt | None = None
    sha256: str | None = Sha256

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.hub, self.url, self.civitai)) != 1:
            raise ValueError("give one of hub, url and civitai")
        if (self.hub is None) != (self.file is None) or (self.revision is not None and self.hub is None):
            raise ValueError("hub and file belong together, and revision to them")
        parts = PurePosixPath(self.file or "x").parts
        if ".." in parts or parts[0] == "/" or "\\" in (self.file or ""):
            raise ValueError("file is a path inside the repository")
        return self

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        if self.hub is not None:
            return f"hf:{self.hub}/{self.file}" + (f" at {self.revision}" if self.revision else "")
        return self.url or f"civitai:{self.civitai}"


class KnownCopy(BaseModel):
    """A file that was published under an entry's name, to recognise it by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: PositiveInt | None = None


class CatalogEntry(BaseModel):
    """One published VAE. look: one honest line; files: all of them make the VAE; standard: of its family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Name
    title: str
    family: str
    network: Literal["kl", "tiny"] = "kl"
    publisher: str = "unknown"
    licence: str = "unknown"
    home: str | None = Field(default=None, pattern=r"^https://[^\s]+$")
    look: str = ""
    aliases: tuple[str, ...] = ()
    files: tuple[CatalogFile, ...] = ()
    copies: tuple[KnownCopy, ...] = ()
    fingerprint: str | None = Sha256
    standard: bool = False
    bundled: bool = False

    @field_validator("name", "aliases")
    @classmethod
    def _not_reserved(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if name.lower() in RESERVED:
                raise ValueError(f"{name!r} means something else")
        return value

    @property
    def size(self) -> int | None:
        """Bytes of all its files; None where one is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes or not sizes else sum(size for size in sizes if size is not None)

    @property
    def hashes(self) -> dict[str, int | None]:
        """SHA-256 of each single file that holds the whole VAE -> its size where that is known."""
        whole = self.files if len(self.files) == 1 else ()
        return {f.sha256: f.size for f in whole if f.sha256} | {copy.sha256: copy.size for copy in self.copies}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json") | {"size": self.size}


class Catalog:
    """The entries, and ways to find one. A later entry takes the place of an earlier one of its name."""

    def __init__(self, entries: Iterable[CatalogEntry]):
        self.entries: Mapping[str, CatalogEntry] = {entry.name: entry for entry in entries}
        self._aliases = {alias: entry for entry in self.entries.values() for alias in entry.aliases}
        self._hashes = {sha256: entry for entry in self.entries.values() for sha256 in entry.hashes}
        self._prints = {entry.fingerprint: entry for entry in self.entries.values() if entry.fingerprint}

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self.entries.values())

    def get(self, name: str) -> CatalogEntry | None:
        """The entry of exactly that name or alias."""
        return self.entries.get(name) or self._aliases.get(name)

    def find(self, name: str) -> CatalogEntry:
        """The entry of exactly that name or alias. Raises OptionError with the nearest names."""
        found = self.get(name)
        if found is None:
            raise OptionError(f"the catalog has no VAE called {name!r}; {nearest(name, self.names())}")
        return found

    def names(self) -> list[str]:
        """Names and aliases."""
        return [*self.entries, *self._aliases]

    def recognise(self, *, sha256: str | None, fingerprint: str | None) -> CatalogEntry | None:
        """The entry that a file with this hash, or weights with this fingerprint, belong to."""
        return self._hashes.get(sha256 or "") or self._prints.get(fingerprint or "")

    def sizes(self) -> set[int]:
        """Bytes of the files that `recognise` knows by their hash."""
        return {size for entry in self for size in entry.hashes.values() if size is not None}

    def standard(self, family: str) -> CatalogEntry | None:
        """The VAE that checkpoints of a family fall back on; the last one named so, as a user's own comes last."""
        return next((entry for entry in reversed(list(self)) if entry.standard and entry.family == family), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: the names that look most like this one, whatever their case."""
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(by_folded[n] for n in near)}?" if near else "vaekit vae list shows what there is"


def catalog() -> Catalog:
    """What ships with vaekit and then the user's own file. Raises FileError with the line that is wrong."""
    shipped = _shipped()
    own = own_file()
    return Catalog((*shipped, *(_own(own, shipped) if own is not None else ())))


def own_file() -> Path | None:
    """The user's own catalog: what VAEKIT_CATALOG names, else catalog.toml in the configuration folder, if any."""
    return folders.own_file(VARIABLE, "catalog.toml")


def _shipped() -> list[CatalogEntry]:
    text = resources.files("vaekit.catalog").joinpath("catalog.toml").read_text("utf-8")
    entries = [CatalogEntry(name=name, **values) for name, values in tomllib.loads(text).items()]
    there = set(assets.bundled_models())
    return [entry for entry in entries if not entry.bundled or entry.name in there]


def _own(path: Path, shipped: Iterable[CatalogEntry]) -> list[CatalogEntry]:
    file = tables.read(path)
    own = [_own_entry(file, name) for name in file.tables]
    entries = {entry.name: entry for entry in (*shipped, *own)}
    taken: dict[str, CatalogEntry] = {}
    for entry in entries.values():
        for alias in entry.aliases:
            taken.setdefault(alias, entry)
    for entry in own:
        for alias in entry.aliases:
            if alias in entries or taken[alias] is not entry:
                raise file.wrong((entry.name, "aliases"), f"{alias!r} is another VAE's name already")
    return own


def _own_entry(file: Tables, name: str) -> CatalogEntry:
    entry = file.check(name, CatalogEntry)
    if entry.family not in families():
        known = ", ".join(families())
        raise file.wrong((name, "family"), f"no family is called {entry.family!r}; there are {known}")
    if entry.bundled:
        raise file.wrong((name, "bundled"), "is for what ships with vaekit")
    return entry

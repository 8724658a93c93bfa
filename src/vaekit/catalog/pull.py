"""Getting a VAE: from a name, a repository, a model's number or an address to a file that is ready to use."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from vaekit import assets, folders
from vaekit.catalog.known import CatalogEntry, CatalogFile, catalog
from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.locate import WEIGHT_SUFFIXES
from vaekit.errors import FileError, OptionError, OutputError
from vaekit.files import check_target

if TYPE_CHECKING:
    from vaekit.catalog.download import Progress, Remote
    from vaekit.catalog.hub import HubFile, HubTarget

log = logging.getLogger("vaekit")

LONGEST_NAME = 120
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""

PATIENCE = 0.5
"""Seconds before another process that fetches the same is told of."""

Fetch = Callable[[Path, "Progress | None"], None]


@dataclass(frozen=True)
class Wanted:
    """One file to fetch, and how."""

    fetch: Fetch
    sha256: str | None = None


@dataclass(frozen=True)
class Parcel:
    """What makes one VAE. name: of the file, or of the folder where there are several; files: by their names in it."""

    name: str
    files: Mapping[str, Wanted]
    source: str

    @property
    def in_folder(self) -> bool:
        return len(self.files) > 1


def pull(target: str, folder: Path | None = None, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Fetch a VAE, unless it is there already, and tell where it lies: a file, or a folder for one in several files.

    target: a name of the catalog, hf:REPO[@REVISION][/FILE], civitai:MODEL[@VERSION],
    an http(s) address, also that of a page of the hub or of Civitai. folder: where
    to, vaekit's own folder of downloads by default. What was fetched is checked
    against the published SHA-256, and from its header to be a VAE, before it is there.

    Raises OptionError (nothing is called so), FileError and NotAVAEError (not what
    it should be), AccessError, NetworkError, OutputError (exists, disk full).
    """
    if entry := catalog().get(target):
        return pull_entry(entry, folder, force=force, progress=progress)
    return _deliver(_parcel(target), folder, force, progress)


def pull_entry(
    entry: CatalogEntry, folder: Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Fetch a VAE of the catalog, as `pull` does; for a bundled one, tell where it lies."""
    if entry.bundled:
        if folder is not None:
            raise OptionError(f"{entry.name} ships with vaekit, in {assets.model_folder(entry.name)}; nothing to fetch")
        return assets.model_folder(entry.name)
    if not entry.files:
        raise OptionError(f"{entry.name}: the catalog does not tell where it can be fetched")
    wanted = [_of_catalog(file) for file in entry.files]
    source = ", ".join(file.source for file in entry.files)
    if len(wanted) == 1:
        ((name, file),) = wanted
        called = entry.name + Path(safe_name(name)).suffix
        return _deliver(Parcel(called, {called: file}, source), folder, force, progress)
    files = {safe_name(name): file for name, file in wanted}
    if len(files) < len(wanted):
        raise OptionError(f"{entry.name}: two of its files in the catalog have one name")
    return _deliver(Parcel(entry.name, files, source), folder, force, progress)


def safe_name(name: str) -> str:
    """A file's name as it may be used here, out of what a server calls it. Raises FileError for no weights."""
    last = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^\w .()+-]", "_", last).lstrip(". ").rstrip(". ")
    stem, suffix = Path(clean).stem, Path(clean).suffix
    if suffix.lower() not in WEIGHT_SUFFIXES:
        raise FileError(f"{clean[:80]!r} is no file of weights; those end in {', '.join(WEIGHT_SUFFIXES)}")
    short = stem.encode()[:LONGEST_NAME].decode(errors="ignore")
    return ("_" if RESERVED.fullmatch(clean) else "") + short + suffix


# From a target to what is fetched


def _parcel(target: str) -> Parcel:
    scheme, _, rest = target.partition(":")
    scheme = scheme.lower()
    if scheme == "hf":
        from vaekit.catalog import hub

        return _on_the_hub(hub.parse(rest))
    if scheme == "civitai":
        from vaekit.catalog import civitai

        return _on_civitai(*civitai.parse(rest))
    if scheme in ("http", "https"):
        return _at_address(target)
    try:
        catalog().find(target)
    except OptionError as error:
        hint = f"; hf:{target} is a repository of the hub" if target.count("/") == 1 else ""
        raise OptionError(f"{error}; `vaekit vae search` looks on Civitai and the hub{hint}") from None
    raise AssertionError("a name of the catalog was handled before")


def _on_the_hub(target: HubTarget) -> Parcel:
    from vaekit.catalog import hub

    files = hub.find(target)
    weights = files[-1]
    hub.refuse_other(weights)
    source = f"hf:{target.repo}"
    if len(files) == 1:
        name = safe_name(weights.name)
        return Parcel(name, {name: _from_hub(weights)}, source)
    config = files[0]
    both = {config.name: _from_hub(config), safe_name(weights.name): _from_hub(weights)}
    return Parcel(target.repo.split("/")[1], both, source)


def _on_civitai(model: int | None, version: int | None) -> Parcel:
    from vaekit.catalog import civitai

    name, remote = civitai.find(model, version)
    name = safe_name(name)
    return Parcel(name, {name: _from_server(remote)}, f"civitai:{model or ''}@{version or ''}".rstrip("@"))


def _at_address(url: str) -> Parcel:
    """Addresses of pages that people copy out of their browser stand for what the page shows."""
    from vaekit.catalog import civitai, hub, web
    from vaekit.catalog.download import Remote, published_name

    if page := hub.parse_page(url):
        return _on_the_hub(page)
    if numbers := civitai.parse_page(url):
        return _on_civitai(*numbers)
    name = safe_name(published_name(url))
    return Parcel(name, {name: _from_server(Remote(url))}, web.shown(url))


def _of_catalog(file: CatalogFile) -> tuple[str, Wanted]:
    """What a file of the catalog is called at its source, and how to get it; the catalog's own hash counts."""
    if file.hub is not None:
        from vaekit.catalog.hub import HubFile

        there = HubFile(file.hub, file.file or "", file.revision, file.sha256, file.size)
        return there.name, _from_hub(there)
    from vaekit.catalog.download import Remote

    if file.url is not None:
        return file.url.rpartition("/")[2], _from_server(Remote(file.url, file.sha256, file.size))
    from dataclasses import replace

    from vaekit.catalog import civitai

    name, remote = civitai.find(*civitai.parse(file.civitai or ""))
    return name, _from_server(replace(remote, sha256=file.sha256 or remote.sha256, size=file.size))


def _from_hub(file: HubFile) -> Wanted:
    from vaekit.catalog import hub

    return Wanted(lambda target, progress: hub.fetch(file, target, progress=progress), file.sha256)


def _from_server(remote: Remote) -> Wanted:
    from vaekit.catalog.download import download

    return Wanted(lambda target, progress: download(remote, target, progress=progress), remote.sha256)


# From what is fetched to a file that is there


def _deliver(parcel: Parcel, folder: Path | None, force: bool, progress: Progress | None) -> Path:
    goal = (folder or folders.downloads()) / parcel.name
    try:
        with _alone(goal):
            if not force and _is_there(parcel, goal):
                log.info("%s: is there already", goal)
                return goal
            _check_goal(parcel, goal, force)
            log.info("%s: fetching from %s", parcel.name, parcel.source)
            with _staging(goal) as staging:
                _fetch(parcel, staging, progress)
                _place(parcel, staging, goal)
    except OSError as error:
        raise OutputError(f"{goal}: {error.strerror or error}") from error
    return goal


@contextmanager
def _alone(goal: Path) -> Iterator[None]:
    """Two processes that fetch the same file: the second waits, and finds it there."""
    key = hashlib.sha256(str(goal.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    place = folders.cache() / "locks"
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / f"{key}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        log.info("%s: is being fetched already; waiting for it", goal)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_there(parcel: Parcel, goal: Path) -> bool:
    """Whether all of it is there, as it was published; what has no published hash does not count."""
    from vaekit.catalog.download import sha256_of

    paths = {name: goal / name if parcel.in_folder else goal for name in parcel.files}
    known = {name: wanted.sha256 for name, wanted in parcel.files.items() if wanted.sha256}
    if not known or not all(path.is_file() for path in paths.values()):
        return False
    return all(sha256_of(paths[name]) == sha256 for name, sha256 in known.items())


def _check_goal(parcel: Parcel, goal: Path, force: bool) -> None:
    """Refuse now what could not be written later; a file of that name with other content among it."""
    if parcel.in_folder and goal.is_dir():
        if not force:
            raise OutputError(f"{goal}: exists already, as another VAE; --force overwrites it, --to goes elsewhere")
        return
    check_target(goal, force=force and not parcel.in_folder)


@contextmanager
def _staging(goal: Path) -> Iterator[Path]:
    """A hidden folder beside the goal. What came of a broken download stays in it for the next call."""
    staging = goal.with_name(f".{goal.name}.part")
    staging.mkdir(parents=True, exist_ok=True)
    try:
        yield staging
    except FileError:
        shutil.rmtree(staging)
        raise
    finally:
        with suppress(OSError):  # there is something in it, or it has become the goal
            staging.rmdir()


def _fetch(parcel: Parcel, staging: Path, progress: Progress | None) -> None:
    for name, wanted in parcel.files.items():
        wanted.fetch(staging / name, progress)
    try:
        _check_is_vae(staging if parcel.in_folder else staging / parcel.name)
    except FileError as error:
        told = str(error).replace(f"{staging}/", "").replace(str(staging), parcel.name)
        raise type(error)(f"{told}; nothing was kept") from error


def _check_is_vae(path: Path) -> None:
    """From the headers; a pickle is looked through and never run."""
    for entry in inspect(path):
        halves = [half for half in ("encoder", "decoder") if getattr(entry.identity.config, f"has_{half}")]
        families = " or ".join(family.name for family in entry.identity.families) or "of an open family"
        log.info("%s: a VAE, %s, %s", entry.path.name, families, " and ".join(halves))


def _place(parcel: Parcel, staging: Path, goal: Path) -> None:
    """Into place in one step; the files of a folder that is there, which --force asks for, one by one."""
    if parcel.in_folder and not goal.exists():
        staging.rename(goal)
        return
    for name in parcel.files:
        (staging / name).replace(goal / name if parcel.in_folder else goal)

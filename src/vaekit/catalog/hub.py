"""VAEs on the Hugging Face hub, through huggingface_hub: its endpoint, its token and its cache are the user's own."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    errors,
    get_session,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.utils.tqdm import tqdm

from vaekit.catalog.download import Progress, refuse_full_disk, sha256_of
from vaekit.catalog.library import printable
from vaekit.checkpoints.identify import identify
from vaekit.checkpoints.locate import DIFFUSERS_ORDER, DIFFUSERS_STEM, WEIGHT_SUFFIXES
from vaekit.checkpoints.sources import TensorInfo
from vaekit.errors import AccessError, FileError, NetworkError, OptionError, OutputError

TIMEOUT = 30.0
CONFIG = "config.json"
LOGIN = "`hf auth login` or HF_TOKEN gives it your token"
OF_A_VAE = re.compile(r"(^|[^a-z])(vae|ae)([^a-z]|$)|vae-|autoencoder|taes|taef", re.IGNORECASE)
"""What files and repositories of VAEs are called."""

_TARGET = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
_PAGE = re.compile(
    r"https://(huggingface\.co|hf\.co)/(?P<repo>\w[\w.-]*/\w[\w.-]*)"
    r"(/(resolve|blob|tree|raw)/(?P<revision>[\w.-]+)(/(?P<file>[^?#]+))?)?/?([?#].*)?"
)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository. sha256 and size: as the hub or the catalog tells them."""

    repo: str
    path: str
    revision: str | None = None
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class HubTarget:
    """A repository, or one file of it."""

    repo: str
    file: str | None = None
    revision: str | None = None


def parse(text: str) -> HubTarget:
    """REPO, REPO/FILE, REPO@REVISION/FILE, as they stand behind `hf:`. Raises OptionError."""
    found = _TARGET.fullmatch(text)
    if found is None or ".." in PurePosixPath(found["file"] or "").parts:
        raise OptionError(f"hf:{text}: is not hf:OWNER/NAME or hf:OWNER/NAME/FILE")
    return HubTarget(found["repo"], found["file"], found["revision"])


def parse_page(url: str) -> HubTarget | None:
    """What an address of the hub's pages stands for; None for other addresses."""
    found = _PAGE.fullmatch(url)
    return HubTarget(found["repo"], found["file"], found["revision"]) if found else None


def find(target: HubTarget) -> list[HubFile]:
    """The files of a repository that make up its VAE: one, or config.json and weights.

    Raises FileError (no such file, with those there are), OptionError (several
    VAEs, with their names), AccessError, NetworkError.
    """
    with _quiet():
        listed = listing(target)
    if target.file is not None and target.file not in listed:
        known = _one_of_each(path for path in listed if PurePosixPath(path).suffix in WEIGHT_SUFFIXES)
        raise FileError(f"hf:{target.repo}: has no file {target.file!r}; it has {_some(known)}")
    chosen = choose(listed) if target.file is None else _with_config(target.file, listed)
    if not chosen:
        named = [path for path in listed if PurePosixPath(path).suffix in WEIGHT_SUFFIXES]
        told = (
            f"name one: hf:{target.repo}/{printable(named[0])} … ({_some(named)})"
            if named
            else "it has no weights at all"
        )
        raise OptionError(f"hf:{target.repo}: does not say which file is its VAE; {told}")
    return [listed[path] for path in chosen]


def choose(paths: Iterable[str]) -> list[str]:
    """Which files of a repository are its VAE; none where that is open."""
    there = set(paths)
    for folder in ("", "vae/"):
        if folder + CONFIG in there and not (folder == "" and "model_index.json" in there):
            for ending in DIFFUSERS_ORDER:
                if folder + DIFFUSERS_STEM + ending in there and not ending.endswith(".json"):
                    return [folder + CONFIG, folder + DIFFUSERS_STEM + ending]
    weights = _one_of_each(path for path in sorted(there) if PurePosixPath(path).suffix in WEIGHT_SUFFIXES)
    named = [path for path in weights if OF_A_VAE.search(path)]
    return next(([paths[0]] for paths in (named, weights) if len(paths) == 1), [])


def refuse_other(file: HubFile) -> None:
    """Raise NotAVAEError for a safetensors file that holds something else, from its header on the hub alone."""
    if not file.path.endswith(".safetensors"):
        return
    with _told(f"hf:{file.repo}"), _quiet():
        header = _api().parse_safetensors_file_metadata(file.repo, file.path, revision=file.revision)
    tensors = {name: TensorInfo(info.dtype, tuple(info.shape)) for name, info in header.tensors.items()}
    identify(tensors, path=Path(file.name), metadata=header.metadata)


def fetch(file: HubFile, target: Path, *, progress: Progress | None = None) -> None:
    """Download a file, or copy it out of the hub's cache; its SHA-256 is checked against what the hub tells.

    Raises NetworkError, AccessError, FileError (nothing there, not what was
    published), OutputError (disk full, no permission).
    """
    try:
        refuse_full_disk(target.parent, file.size or 0)
        if not _copy_from_cache(file, target):
            _download(file, target, progress)
    except OSError as error:
        raise OutputError(f"{error.filename or target}: {error.strerror or error}") from error


def _copy_from_cache(file: HubFile, target: Path) -> bool:
    """Take what diffusers or another program fetched already; this works offline too."""
    cached = try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    if not isinstance(cached, str) or file.sha256 is None or sha256_of(Path(cached)) != file.sha256:
        return False
    shutil.copyfile(cached, target)
    return True


def _download(file: HubFile, target: Path, progress: Progress | None) -> None:
    staging = target.parent / "hub"
    try:
        with _told(f"hf:{file.repo}"), _quiet():
            _reach()
            fetched = hf_hub_download(
                file.repo,
                file.path,
                revision=file.revision,
                local_dir=staging,
                endpoint=_endpoint(),
                library_name="vaekit",
                tqdm_class=_reporting(file.name, progress),
            )
        if file.sha256 and (found := sha256_of(Path(fetched))) != file.sha256:
            raise FileError(
                f"hf:{file.repo}/{file.path}: its SHA-256 is {found[:16]}…, published is "
                f"{file.sha256[:16]}…: damaged, or another file; nothing was kept"
            )
        Path(fetched).replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def snapshot(repo: str, wanted: list[str]) -> Path:
    """The folder in the hub's cache that holds the files of a repository with such names, fetched where need be.

    wanted: patterns as of a shell. Raises NetworkError, AccessError, FileError, OptionError.
    """
    parse(repo)
    with _told(f"hf:{repo}"), _quiet():
        with suppress(errors.LocalEntryNotFoundError):
            return Path(snapshot_download(repo, allow_patterns=wanted, local_files_only=True))
        _reach()
        return Path(snapshot_download(repo, allow_patterns=wanted, endpoint=_endpoint(), library_name="vaekit"))


def search(word: str, *, limit: int) -> list[ModelInfo]:
    """Repositories with a word in their name, downloaded most first, with tags and the names of their files."""
    details: list[Any] = ["downloadsAllTime", "tags", "siblings", "gated"]
    with _told("the hub's search"), _quiet():
        get_session().head(
            _endpoint() or constants.ENDPOINT, timeout=TIMEOUT
        )  # list_models hopes for 23 s when offline
        return list(_api().list_models(search=word, sort="downloads", limit=limit, expand=details))


def listing(target: HubTarget) -> dict[str, HubFile]:
    """Every file of a repository, with its size and, of large ones, its SHA-256. Raises as `find` does."""
    with _told(f"hf:{target.repo}"):
        info = _api().model_info(target.repo, revision=target.revision, files_metadata=True, timeout=TIMEOUT)
    return {
        file.rfilename: HubFile(
            target.repo, file.rfilename, target.revision, file.lfs.sha256 if file.lfs else None, file.size
        )
        for file in info.siblings or ()
    }


def _with_config(path: str, listed: Iterable[str]) -> list[str]:
    """A diffusers folder's weights say little without the config.json beside them."""
    beside = str(PurePosixPath(path).with_name(CONFIG))
    is_diffusers = PurePosixPath(path).name.startswith(DIFFUSERS_STEM)
    return [beside, path] if is_diffusers and beside in set(listed) else [path]


def _one_of_each(paths: Iterable[str]) -> list[str]:
    """Of files that differ in their ending only, the safetensors."""
    by_stem: dict[str, str] = {}
    for path in paths:
        stem = path.removesuffix(PurePosixPath(path).suffix)
        if stem not in by_stem or path.endswith(".safetensors"):
            by_stem[stem] = path
    return list(by_stem.values())


def _some(paths: list[str]) -> str:
    return printable(", ".join(paths[:5])) + (" …" if len(paths) > 5 else "") or "no weights"


def _endpoint() -> str | None:
    """HF_ENDPOINT as it is now; huggingface_hub keeps what it was when it was imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _api() -> HfApi:
    return HfApi(endpoint=_endpoint(), library_name="vaekit")


def _reach() -> None:
    """Fail at once where there is no connection; huggingface_hub would try for half a minute."""
    get_session().head(_endpoint() or constants.ENDPOINT, timeout=TIMEOUT)


def _reporting(name: str, progress: Progress | None) -> type[tqdm]:
    """huggingface_hub tells how far it is to a bar of tqdm's kind; this one draws nothing and passes it on."""

    class Reporting(tqdm):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **(options | {"disable": True}))  # type: ignore[no-untyped-call]
            self.there = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.there += int(n or 0)
            if progress and self.total:
                progress(name, self.there, int(self.total))
            return None

    return Reporting


@contextmanager
def _quiet() -> Iterator[None]:
    """None of huggingface_hub's own lines, which tell of each retry: what matters comes as an error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _told(asked: str) -> Iterator[None]:
    """huggingface_hub's errors as ours."""
    try:
        yield
    except Exception as error:
        translated = _translate(error, asked)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, asked: str) -> Exception | None:
    for kind, tell in _TOLD:
        if isinstance(error, kind):
            return tell(error, asked)
    return None


def _answered(error: Exception, asked: str) -> Exception:
    assert isinstance(error, errors.HfHubHTTPError)
    status = error.response.status_code
    if status in (401, 403):
        return AccessError(f"{asked}: the hub gives no access ({status}); {LOGIN}")
    if status == 429:
        return NetworkError("the hub: too many requests (429); try again in some minutes, with a token it allows more")
    return NetworkError(f"{asked}: the hub answers {status}; try again later")


def _failed(error: Exception, asked: str) -> Exception:
    assert isinstance(error, OSError)
    if error.errno is None:  # its own check of the size
        return NetworkError(f"{asked}: the download broke off; try again")
    return OutputError(f"{error.filename or asked}: {error.strerror or error}")


def _no_connection(error: Exception, asked: str) -> Exception:
    cause = error.__cause__ or error
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.is_offline_mode():
        return NetworkError("HF_HUB_OFFLINE is set, and the file is not here yet; unset it to fetch")
    told = " ".join(str(cause).split())[:120]
    host = httpx2.URL(_endpoint() or constants.ENDPOINT).host
    return NetworkError(f"no connection to {host} ({told}); are you offline?")


def _not_here(error: Exception, asked: str) -> Exception:
    """The hub could not be asked, and the file is not in the cache: the first of these tells why."""
    cause = error.__cause__
    return (isinstance(cause, Exception) and _translate(cause, asked)) or _no_connection(error, asked)


def _page(asked: str) -> str:
    return f"https://huggingface.co/{asked.removeprefix('hf:')}"


_TOLD: tuple[tuple[type[Exception], Callable[[Exception, str], Exception]], ...] = (
    (
        errors.GatedRepoError,
        lambda _, asked: AccessError(f"{asked}: accept its licence at {_page(asked)}, then {LOGIN}"),
    ),
    (
        errors.RepositoryNotFoundError,
        lambda _, asked: AccessError(f"{asked}: no such repository, or a private one; if so, {LOGIN}"),
    ),
    (errors.RevisionNotFoundError, lambda _, asked: FileError(f"{asked}: has no such revision")),
    (errors.RemoteEntryNotFoundError, lambda _, asked: FileError(f"{asked}: has no such file")),
    (errors.HFValidationError, lambda _, asked: OptionError(f"{asked}: is no name of a repository")),
    (errors.NotASafetensorsRepoError, lambda _, asked: FileError(f"{asked}: a safetensors file that is none")),
    (errors.SafetensorsParsingError, lambda _, asked: FileError(f"{asked}: a safetensors file that is none")),
    (errors.OfflineModeIsEnabled, _no_connection),
    (errors.LocalEntryNotFoundError, _not_here),
    (errors.HfHubHTTPError, _answered),
    (errors.FileMetadataError, lambda _, asked: NetworkError(f"{asked}: the server does not speak as the hub does")),
    (errors.XetDownloadError, lambda _, asked: NetworkError(f"{asked}: the download broke off; try again")),
    (httpx2.ConnectError, _no_connection),
    (httpx2.TimeoutException, _no_connection),
    (httpx2.HTTPError, lambda _, asked: NetworkError(f"{asked}: the connection broke off; try again")),
    (httpx2.InvalidURL, lambda _, asked: OptionError(f"HF_ENDPOINT={_endpoint()!r} is not an address")),
    (OSError, _failed),
)

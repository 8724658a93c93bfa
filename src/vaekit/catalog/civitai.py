"""VAEs on Civitai, through its REST interface (https://developer.civitai.com)."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from vaekit.catalog.download import Remote
from vaekit.catalog.library import printable
from vaekit.catalog.web import Bearer, get_json
from vaekit.errors import FileError, NetworkError, OptionError, UnsafeFileError

log = logging.getLogger("vaekit")

TOKEN_VARIABLE = "CIVITAI_API_TOKEN"
ENDPOINT_VARIABLE = "CIVITAI_ENDPOINT"
KEYRING = ("vaekit", "civitai")
HINT = f"a key from your account page goes into {TOKEN_VARIABLE} or `keyring set {' '.join(KEYRING)}`"
PAGE_SIZE = 100
MOST_PAGES = 12

_TARGET = re.compile(r"(?P<model>[0-9]{1,10})(@(?P<version>[0-9]{1,10}))?")
_PAGE = re.compile(
    r"https://(www\.)?civitai\.(com|red|green)/"
    r"(models/(?P<model>[0-9]{1,10})(/[^?#]*)?|api/download/models/(?P<file>[0-9]{1,10}))(\?(?P<query>[^#]*))?(#.*)?"
)


class _Answer(BaseModel):
    """Part of an answer; a null is as good as nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


class File(_Answer):
    """A file of a version. sizeKB: of 1024 bytes, rounded."""

    name: str
    type: str = ""
    sizeKB: float = 0.0
    metadata: dict[str, Any] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    primary: bool = False
    downloadUrl: str
    pickleScanResult: str | None = None
    virusScanResult: str | None = None

    @property
    def sha256(self) -> str | None:
        found = self.hashes.get("SHA256", "").lower()
        return found if re.fullmatch(r"[0-9a-f]{64}", found) else None


class Image(_Answer):
    url: str
    nsfwLevel: int | None = None


class Stats(_Answer):
    downloadCount: int = 0


class Version(_Answer):
    """A version of a model; archived ones have no files."""

    id: int
    name: str = ""
    baseModel: str = ""
    files: list[File] = Field(default_factory=list)
    images: list[Image] = Field(default_factory=list)
    stats: Stats = Field(default_factory=Stats)


class Model(_Answer):
    id: int
    name: str
    type: str
    tags: list[str] = Field(default_factory=list)
    stats: Stats = Field(default_factory=Stats)
    modelVersions: list[Version] = Field(default_factory=list)
    allowNoCredit: bool | None = None
    allowCommercialUse: list[str] | str | None = None


class _Listing(_Answer):
    items: list[Any]
    metadata: dict[str, Any] = Field(default_factory=dict)


class _VersionOfModel(Version):
    class Model(_Answer):
        name: str = ""
        type: str = ""

    modelId: int
    model: Model


def parse(text: str) -> tuple[int, int | None]:
    """MODEL or MODEL@VERSION, as they stand behind `civitai:`. Raises OptionError."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise OptionError(f"civitai:{text}: is not civitai:MODEL or civitai:MODEL@VERSION, numbers of a page's address")
    return int(found["model"]), int(found["version"]) if found["version"] else None


def parse_page(url: str) -> tuple[int | None, int | None] | None:
    """Model and version that an address of Civitai's pages or downloads stands for; None for other addresses."""
    found = _PAGE.fullmatch(url)
    if found is None:
        return None
    if found["file"]:
        return None, int(found["file"])
    version = re.search(r"(?:^|&)modelVersionId=([0-9]{1,10})(?:&|$)", found["query"] or "")
    return int(found["model"]), int(version[1]) if version else None


def find(model: int | None, version: int | None = None) -> tuple[str, Remote]:
    """The file of a model's VAE, the newest version's unless one is named: what it is called, and where it is.

    Raises FileError (no such model or version, no VAE file), UnsafeFileError
    (Civitai's scan found something), AccessError, NetworkError.
    """
    if model is None:
        found = _parsed(_VersionOfModel, _ask(f"model-versions/{version}"))
        return _remote(choose(found, found.model.type), f"civitai:{found.modelId}@{found.id}", found.model.type)
    answer = _parsed(Model, _ask(f"models/{model}"))
    chosen = _version(answer, version)
    return _remote(choose(chosen, answer.type), f"civitai:{model}@{chosen.id}", answer.type)


def choose(version: Version, kind: str) -> File | None:
    """The file of a version that is its VAE; None where it has none. kind: the model's type."""
    files = [file for file in version.files if file.type == "VAE"]
    if not files and kind == "VAE":
        files = [file for file in version.files if file.type in ("Model", "Pruned Model")]
    order = sorted(files, key=lambda file: (file.metadata.get("format") != "SafeTensor", not file.primary))
    return order[0] if order else None


def browse() -> Iterator[Model]:
    """Every VAE on Civitai, those downloaded most first.

    Its own search looks among models of all kinds and throws away what is no VAE
    afterwards, so that little is left: the words are better compared here.
    """
    parameters: dict[str, str | int] = {"types": "VAE", "sort": "Most Downloaded", "limit": PAGE_SIZE, "nsfw": "true"}
    for _ in range(MOST_PAGES):
        page = _parsed(_Listing, get_json(f"{_endpoint()}/api/v1/models", parameters, token=token(), hint=HINT))
        for item in page.items:
            try:
                yield _parsed(Model, item)
            except NetworkError as error:
                log.info("%s; this one is left out", error)
        cursor = page.metadata.get("nextCursor")
        if cursor is None:
            return
        parameters["cursor"] = str(cursor)


def licence(model: Model) -> str:
    """What its author allows, in words."""
    allowed: Sequence[str] | str | None = model.allowCommercialUse
    if allowed is None:
        return "unknown"
    uses = re.findall(r"\w+", allowed) if isinstance(allowed, str) else allowed
    sold = [use for use in uses if use != "None"]
    credit = "" if model.allowNoCredit else ", with credit"
    return (f"commercial use: {', '.join(sold)}" if sold else "no commercial use") + credit


def token() -> Bearer | None:
    """The user's key, from the environment or the keyring, if there is one."""
    named = os.environ.get(TOKEN_VARIABLE)
    if named:
        return Bearer(named, TOKEN_VARIABLE)
    try:
        keyring, errors = import_module("keyring"), import_module("keyring.errors")
    except ImportError:
        return None
    try:
        kept = keyring.get_password(*KEYRING)
    except errors.KeyringError:  # no keyring on this machine, or a locked one
        return None
    return Bearer(kept, "the keyring") if kept else None


def _version(model: Model, asked: int | None) -> Version:
    found = [version for version in model.modelVersions if asked in (None, version.id)]
    if not found:
        there = ", ".join(f"{model.id}@{version.id} ({version.name})" for version in model.modelVersions[:6])
        raise FileError(f"civitai:{model.id}: has no version {asked}; it has {printable(there) or 'none to download'}")
    return found[0]


def _remote(file: File | None, target: str, kind: str) -> tuple[str, Remote]:
    if file is None:
        raise FileError(f"{target}: a {printable(kind)} without a VAE file of its own to download")
    if "Danger" in (file.pickleScanResult, file.virusScanResult):
        raise UnsafeFileError(f"{target}: Civitai's scan says that {file.name!r} is dangerous; it was not fetched")
    return file.name, Remote(file.downloadUrl, file.sha256, token=_token_for(file.downloadUrl), hint=HINT)


def _token_for(url: str) -> Bearer | None:
    """The key goes to Civitai alone, whatever address its answer names."""
    return token() if url.startswith(f"{_endpoint()}/") else None


def _endpoint() -> str:
    return (os.environ.get(ENDPOINT_VARIABLE) or "https://civitai.com").rstrip("/")


def _ask(path: str) -> Any:
    return get_json(f"{_endpoint()}/api/v1/{path}", token=token(), hint=HINT)


M = TypeVar("M", bound=BaseModel)


def _parsed(kind: type[M], answer: Any) -> M:
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise NetworkError(
            f"Civitai: answers in a shape that vaekit does not know ({where or 'at the top'})"
        ) from error

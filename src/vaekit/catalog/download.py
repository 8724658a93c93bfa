"""Files over HTTP: what broke off is gone on with, and nothing is a file before it is whole and right."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import unquote

import httpx2

from vaekit.catalog import web
from vaekit.catalog.web import Bearer, Dropped, Unreachable
from vaekit.checkpoints.locate import WEIGHT_SUFFIXES
from vaekit.errors import AccessError, FileError, NetworkError, OutputError

log = logging.getLogger("vaekit")

MOST_TRIES = 5
"""How often a broken connection is made again before something new arrives."""

PAUSE = 1.0
"""Seconds before the second try; it grows with each."""

WORTHWHILE = 1 << 20
"""Bytes; when so many arrived, the tries are counted anew."""

SPARE = 64 << 20
"""Bytes that are left free on the disk."""

LARGEST = 64 << 30
"""Bytes that are taken from a server which does not say how many it has."""

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there, and how many it has, where that is known."""


@dataclass(frozen=True)
class Remote:
    """A file on a server. sha256 and size: as published, elsewhere than in the answer; hint: where it wants a login."""

    url: str
    sha256: str | None = None
    size: int | None = None
    token: Bearer | None = None
    hint: str = ""


def download(remote: Remote, target: Path, *, progress: Progress | None = None) -> None:
    """Fetch a file; `target` is there only once it is whole, with the size and SHA-256 that were published.

    What arrived before a failure stays beside it as NAME.part, and the next call
    goes on from there. Raises NetworkError, AccessError, FileError (nothing there,
    not what was published), OutputError (disk full, no permission).
    """
    part = _Part(target, remote)
    try:
        if target.exists() and remote.sha256 and sha256_of(target) == remote.sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part.take_up()
        fetched_before = part.size > 0
        _fetch(remote, part, progress)
        problem = part.problem()
        if problem and fetched_before:  # the old piece may be of another file
            log.info("%s: %s; fetching it anew", target.name, problem)
            part.drop()
            _fetch(remote, part, progress)
            problem = part.problem()
        if problem:
            part.drop()
            raise FileError(f"{web.shown(remote.url)}: {problem}; nothing was kept")
        part.become(target)
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror or error}{part.kept()}") from error


def published_name(url: str) -> str:
    """What a file is called: by its address, or by the server where the address is no file's name."""
    named = unquote(re.split(r"[?#]", url)[0].rpartition("/")[2])
    if Path(named).suffix.lower() in WEIGHT_SUFFIXES:
        return named
    with web.opened(url, headers={"Accept-Encoding": "identity", "Range": "bytes=0-0"}) as response:
        header = Message()
        header["Content-Disposition"] = response.headers.get("Content-Disposition", "")
        return header.get_filename() or named


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raise OutputError when so many bytes do not fit on the disk that `folder` is on."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed + SPARE > free:
        raise OutputError(f"{folder}: the disk is too full: {_megabytes(needed)} to come, {_megabytes(free)} free")


class _Part:
    """What has arrived of a file: NAME.part, and in NAME.part.json what tells whether the server still has the same."""

    def __init__(self, target: Path, remote: Remote):
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self._remote = remote
        self._source = remote.sha256 or web.shown(remote.url)
        self.validator: str | None = None
        self.total: int | None = remote.size
        self.answered = False

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def take_up(self) -> None:
        """Go on with what an earlier call left, where it is a piece of the same file."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            known = (note["source"], note["validator"])
        except (OSError, ValueError, LookupError, TypeError):
            known = (None, None)
        if known[0] == self._source and isinstance(known[1], str):
            self.validator = known[1]
        elif known[0] != self._source or not self._remote.sha256:
            self.drop()

    def request(self) -> dict[str, str]:
        """Headers that ask for what is missing, or for all of it where nothing tells that it is still the same file."""
        if not self.size or (self.validator is None and not self._remote.sha256):
            return {}
        condition = {"If-Range": self.validator} if self.validator else {}
        return {"Range": f"bytes={self.size}-"} | condition

    def note(self, response: httpx2.Response, total: int | None) -> None:
        """Remember what the server says of the file."""
        self.answered = True
        self.total = total if total is not None else self.total
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        if strong and strong.isascii() and strong.isprintable():
            self.validator = strong
        self._note.write_text(json.dumps({"source": self._source, "validator": self.validator}), "utf-8")

    def problem(self) -> str | None:
        """How it differs from what was published; None where it does not."""
        size, wanted = self.size, self._remote
        if wanted.size is not None and size != wanted.size:
            return f"it has {size} bytes, published are {wanted.size}"
        if wanted.sha256 is None:
            return None if self.total in (None, size) else f"the server announces {self.total} bytes and gives {size}"
        found = sha256_of(self.path)
        if found != wanted.sha256:
            return f"its SHA-256 is {found[:16]}…, published is {wanted.sha256[:16]}…: damaged, or another file"
        return None

    def become(self, target: Path) -> None:
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.validator, self.total = None, self._remote.size

    def kept(self) -> str:
        """For messages: whether the next call goes on from here."""
        try:
            size = self.size if self.request() else 0
        except OSError:
            size = 0
        return f"; {_megabytes(size)} of it are kept, the same command goes on from there" if size else ""


def _fetch(remote: Remote, part: _Part, progress: Progress | None) -> None:
    """Get all of it, however often the connection breaks off, as long as something comes."""
    tries = 0
    while part.size == 0 or part.size != part.total:
        before = part.size
        try:
            _receive(remote, part, progress)
            return
        except Dropped as error:
            tries = 1 if part.size - before >= WORTHWHILE else tries + 1
            if tries == MOST_TRIES or (isinstance(error, Unreachable) and not part.answered):
                raise NetworkError(f"{error}{part.kept()}") from error
            log.info("%s; trying again", error)
            time.sleep(PAUSE * (tries - 1))


def _receive(remote: Remote, part: _Part, progress: Progress | None) -> None:
    """One request for all that is missing, written to the part as it comes. Raises Dropped."""
    headers = {"Accept-Encoding": "identity"} | part.request()
    with web.opened(remote.url, headers=headers, token=remote.token, hint=remote.hint, accept=(416,)) as response:
        if response.status_code == 416:
            _refuse_shorter(response, part)
            return
        if "text/html" in response.headers.get("Content-Type", ""):
            host = response.url.host
            raise AccessError(f"{host}: answers with a web page instead of the file; a login? {remote.hint}".strip())
        start, total = _placement(response, part)
        if remote.size is not None and total not in (None, remote.size):
            raise FileError(f"{response.url.host}: announces {total} bytes, published are {remote.size}; refused")
        limit = LARGEST if total is None else total
        refuse_full_disk(part.path.parent, (total or start) - start)
        with part.path.open("r+b" if part.path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            part.note(response, total)
            for piece in response.iter_raw():
                file.write(piece)
                if file.tell() > limit:
                    raise FileError(f"{response.url.host}: sends more than it announced; refused")
                if total is None:
                    refuse_full_disk(part.path.parent, 0)
                if progress:
                    progress(part.path.name.removesuffix(".part"), file.tell(), total)
    if total is not None and part.size < total:
        raise Dropped(f"{response.url.host}: broke off")


def _placement(response: httpx2.Response, part: _Part) -> tuple[int, int | None]:
    """Where in the file the body belongs, and how long the whole file is, where the answer tells."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise NetworkError(f"{response.url.host}: sends the file compressed, though it was asked not to")
    if response.status_code != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
    found = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != part.size:
        part.drop()
        raise Dropped(f"{response.url.host}: answers with another piece of the file than was asked for")
    return part.size, None if found[2] == "*" else int(found[2])


def _refuse_shorter(response: httpx2.Response, part: _Part) -> None:
    """The server has no byte after those that are here: they are all, or it has another file by now."""
    if response.headers.get("Content-Range") != f"bytes */{part.size}":
        part.drop()
        raise Dropped(f"{response.url.host}: has another file by now")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"

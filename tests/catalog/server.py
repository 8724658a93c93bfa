"""A server on 127.0.0.1 that speaks as Civitai, the hub and plain file servers do, and fails as they do."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """How one request goes wrong. drop_after: bytes of the body, then the connection is closed."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    body: bytes = b""


@dataclass
class Page:
    """What stands at a path. faults: of the next requests, in this order; announces: a Content-Length that lies;
    token: what is asked for; by_query: what is answered in JSON.
    """

    content: bytes
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    announces: int | None = None
    ranges: bool = True
    etag: str | None = None
    chunked: bool = False
    token: str | None = None
    by_query: Callable[[Mapping[str, list[str]]], object] | None = None


@dataclass(frozen=True)
class Asked:
    """A request that came in; names of headers in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class Server:
    """Pages by their path, and the requests that came in."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[Asked] = []
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, path: str, content: bytes, **options: Any) -> Page:
        options.setdefault("etag", f'"{hashlib.md5(content).hexdigest()}"')
        self.pages[path] = Page(content, **options)
        return self.pages[path]

    def put_json(self, path: str, value: object, **options: Any) -> Page:
        return self.put(path, json.dumps(value).encode(), kind="application/json", ranges=False, **options)

    def redirect(self, path: str, to: str, **options: Any) -> Page:
        return self.put(path, b"", always=Fault(302, {"Location": to}), **options)

    def asked_for(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path and asked.method == "GET"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def _answer(self, *, with_body: bool) -> None:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.asked.append(Asked(self.command, parts.path, parse_qs(parts.query), headers))
                page = server.pages.get(parts.path)
                if page and page.by_query:
                    page.content = json.dumps(page.by_query(parse_qs(parts.query))).encode()
                if page is None:
                    self._send(404, {}, b'{"error": "Not found"}', with_body)
                    return
                if page.token and headers.get("authorization") != f"Bearer {page.token}":
                    self._send(401, {}, b'{"error": "Unauthorized"}', with_body)
                    return
                fault = page.always or (page.faults.pop(0) if page.faults and with_body else Fault())
                if fault.status != 200:
                    self._send(fault.status, dict(fault.headers), fault.body, with_body)
                else:
                    self._serve(page, fault, headers, with_body)

            def _serve(self, page: Page, fault: Fault, asked: Mapping[str, str], with_body: bool) -> None:
                headers = {"Content-Type": page.kind} | page.headers
                if page.etag:
                    headers["ETag"] = page.etag
                content, status = page.content, 200
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get("range", "")) if page.ranges else None
                if wanted and asked.get("if-range") in (None, page.etag):
                    start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
                    if start >= len(content):
                        self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"", with_body)
                        return
                    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                    content, status = content[start : end + 1], 206
                length = page.announces if page.announces is not None and status == 200 else len(content)
                body = content if fault.drop_after is None else content[: fault.drop_after]
                self._send(status, headers, body, with_body, length=length, chunked=page.chunked)

            def _send(
                self,
                status: int,
                headers: dict[str, str],
                body: bytes,
                with_body: bool,
                *,
                length: int | None = None,
                chunked: bool = False,
            ) -> None:
                announced = len(body) if length is None else length
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
                else:
                    self.send_header("Content-Length", str(announced))
                    if announced != len(body):
                        self.close_connection = True
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, level: str) -> None:
    """Have caplog hear everything, and vaekit's own lines even after a command line that kept them to itself."""
    log = logging.getLogger("vaekit")
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(log, "handlers", [])
    caplog.set_level(level)
    caplog.set_level(level, logger="vaekit")


# Civitai


def civitai_file(server: Server, version: int, content: bytes, **changes: Any) -> dict[str, Any]:
    """A file as the interface tells it, to be downloaded through a redirect to a store with short-lived addresses."""
    server.put(f"/store/{version}", content)
    server.redirect(f"/api/download/models/{version}", f"/store/{version}?X-Amz-Signature=abc")
    return {
        "id": version * 10,
        "sizeKB": len(content) / 1024,
        "name": f"vae-{version}.safetensors",
        "type": "Model",
        "pickleScanResult": "Success",
        "pickleScanMessage": "No Pickle imports",
        "virusScanResult": "Success",
        "virusScanMessage": None,
        "scannedAt": "2023-02-14T17:00:00.000Z",
        "metadata": {"format": "SafeTensor", "size": None, "fp": None},
        "hashes": {
            "AutoV1": "0EB6AAD7",
            "AutoV2": sha256(content)[:10].upper(),
            "SHA256": sha256(content).upper(),
            "CRC32": "3E5F1B1C",
            "BLAKE3": "A" * 64,
        },
        "downloadUrl": f"{server.url}/api/download/models/{version}",
        "primary": True,
    } | changes


def civitai_version(number: int, files: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "index": 0,
        "name": f"v{number}",
        "baseModel": "SD 1.5",
        "publishedAt": "2023-02-14T17:00:00.000Z",
        "availability": "Public",
        "nsfwLevel": 1,
        "description": None,
        "stats": {"downloadCount": number, "thumbsUpCount": 3},
        "files": files,
        "images": [
            {"id": 1, "url": "https://image.civitai.com/x/mature.jpeg", "nsfwLevel": 8, "type": "image"},
            {"id": 2, "url": "https://image.civitai.com/x/plain.jpeg", "nsfwLevel": 1, "type": "image"},
        ],
        "downloadUrl": "https://civitai.com/api/download/models/1",
    } | changes


def civitai_model(number: int, versions: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"VAE {number}",
        "description": "<p>A VAE</p>",
        "type": "VAE",
        "nsfw": False,
        "nsfwLevel": 1,
        "poi": False,
        "minor": False,
        "allowNoCredit": True,
        "allowCommercialUse": ["Image", "Sell"],
        "allowDerivatives": True,
        "allowDifferentLicense": True,
        "stats": {"downloadCount": 5000, "thumbsUpCount": 100, "commentCount": 7, "tippedAmountCount": 0},
        "creator": {"username": "somebody", "image": None},
        "tags": ["anime", "vae"],
        "modelVersions": versions,
    } | changes


# The hub


def hub_repository(server: Server, repo: str, files: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    """Put a repository's files and what the interface tells of it. Large files are those that end as weights do."""
    siblings = []
    for path, content in files.items():
        is_large = not path.endswith((".json", ".md"))
        oid = hashlib.sha1(content).hexdigest()
        sibling: dict[str, Any] = {"rfilename": path, "blobId": oid, "size": len(content)}
        etag = f'"{oid}"'
        if is_large:
            sibling["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            etag = f'"{sha256(content)}"'
        siblings.append(sibling)
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if is_large:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        for revision in ("main", COMMIT):
            server.put(f"/{repo}/resolve/{revision}/{path}", content, headers=headers, etag=etag)
    info = {
        "_id": "6310a1d4c2ecbc0e1e2c2a1f",
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 1000,
        "downloadsAllTime": 20000,
        "likes": 10,
        "tags": ["diffusers", "safetensors", "license:mit", "region:us"],
        "siblings": siblings,
    } | changes
    for address in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
        server.put_json(address, info)
    return info

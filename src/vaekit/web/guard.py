"""Who is let in: by host, by origin, by password, by size. Everything else is turned away with a reason."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = (
    ("Content-Security-Policy", "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
)
OPEN = ("/healthz",)
"""What is answered without a password."""
API = ("/sdapi/", "/api/", "/metrics", "/openapi.json", "/readyz")


@dataclass(frozen=True)
class Rules:
    """hosts: names that the server answers to, against name rebinding; None for any. origins: other sites let in.

    api_auth, ui_auth: "user:password". With both the page takes the second alone, the API, which the page uses, either.
    """

    body: int
    hosts: Collection[str] | None = LOOPBACK
    api_auth: str | None = None
    ui_auth: str | None = None
    origins: Collection[str] = ()

    def passwords(self, path: str) -> list[str]:
        """Those that open a path; none where it is open to all."""
        known = [one for one in (self.ui_auth, self.api_auth) if one is not None]
        return [] if path in OPEN else known if path.startswith(API) else known[:1]


PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
}


class Guard:
    """An ASGI application before another."""

    def __init__(self, app: ASGIApp, rules: Rules):
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        if scope["method"] == "OPTIONS" and origin in self.rules.origins:
            await Response(status_code=204, headers=_allowed(origin) | PREFLIGHT)(scope, receive, send)
            return
        status, reason = self._refused(scope["path"], scope["method"], headers)
        if status:
            challenge = {"WWW-Authenticate": 'Basic realm="vaekit", charset="UTF-8"'} if status == 401 else None
            await JSONResponse({"detail": reason}, status, headers=challenge)(scope, receive, send)
            return
        body = await self._body(receive) if scope["method"] in ("POST", "PUT", "PATCH", "DELETE") else b""
        if body is None:
            await JSONResponse({"detail": self._too_large()}, 413)(scope, receive, send)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given or not body:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in (*HEADERS, *(_allowed(origin).items() if origin in self.rules.origins else ())):
                    answer[name] = value
            await send(message)

        await self.app(scope, again, marked)

    def _refused(self, path: str, method: str, headers: Headers) -> tuple[int, str]:
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self.rules.hosts is not None and name not in self.rules.hosts:
            return 403, "this server does not go by that name"
        origin = headers.get("origin")
        if origin not in self.rules.origins and (method not in ("GET", "HEAD") or path.startswith(API)):
            crossing = headers.get("sec-fetch-site") in ("cross-site", "same-site")
            if crossing or (origin and urlsplit(origin).netloc != host):
                return 403, "requests from other sites are not taken"
        passwords = self.rules.passwords(path)
        if passwords and not _known(headers.get("authorization", ""), passwords):
            return 401, "user and password are needed"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.rules.body:
            return 413, self._too_large()
        return 0, ""

    def _too_large(self) -> str:
        return f"more than {self.rules.body >> 20} MiB in one request"

    async def _body(self, receive: Receive) -> bytes | None:
        """All of it, or None where it is too much, whatever its header said."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.rules.body:
                return None
        return b"".join(parts)


def _known(given: str, passwords: Collection[str]) -> bool:
    """Compared in constant time, each of them."""
    kind, _, value = given.partition(" ")
    try:
        told = base64.b64decode(value, validate=True) if kind.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        told = b""
    return any([hmac.compare_digest(told, one.encode()) for one in passwords])


def _allowed(origin: str) -> dict[str, str]:
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

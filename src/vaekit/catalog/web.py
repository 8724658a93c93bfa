"""Requests to servers that are not believed: no redirect leads into a private network, no token leaves its server."""

from __future__ import annotations

import json
import logging
import re
import time
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx2

from vaekit.catalog.addresses import Deadline, PublicOnly, addresses, is_private
from vaekit.errors import AccessError, FileError, NetworkError, OptionError, VaekitError
from vaekit.version import version

log = logging.getLogger("vaekit")

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
MOST_REDIRECTS = 8
MOST_WAITS = 3
LONGEST_WAIT = 60.0
"""Seconds that a busy server is waited for, each time it asks to."""

LARGEST_ANSWER = 32 << 20
"""Bytes of an answer in JSON."""

AGENT = {"User-Agent": f"vaekit/{version()}"}
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Dropped(NetworkError):
    """The server broke off: another try may go on from there."""


class Unreachable(Dropped):
    """There is no connection to the server."""


class _Discreet(logging.Filter):
    """httpx tells each address in its log, with what may be secret in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(shown(str(arg)) if isinstance(arg, httpx2.URL) else arg for arg in record.args)
        return True


logging.getLogger("httpx2").addFilter(_Discreet())


class Bearer(httpx2.Auth):
    """A token, sent to the server that it is for and shown nowhere. source: where it was found, for messages."""

    def __init__(self, secret: str, source: str):
        self._secret = secret.strip()
        self.source = source
        if not self._secret.isascii() or not self._secret.isprintable() or " " in self._secret:
            raise OptionError(f"{source} holds characters that no token has")

    def __repr__(self) -> str:
        return f"Bearer(from {self.source})"

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._secret}"
        yield request


@contextmanager
def opened(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    token: Bearer | None = None,
    hint: str = "",
    accept: tuple[int, ...] = (),
) -> Iterator[httpx2.Response]:
    """The answer to a GET, after its redirects; its body is still to be read.

    hint: what to do where the server wants a login; accept: statuses that are no
    error. A busy server is waited for as it asks. Raises NetworkError, AccessError,
    FileError (there is nothing), OptionError (not a URL), also for what goes wrong
    while the body is read.
    """
    with _told(url), httpx2.Client(timeout=TIMEOUT, headers=AGENT) as client:
        response = _patiently(client, client.build_request("GET", url, headers=headers), token)
        try:
            if not response.is_success and response.status_code not in accept:
                raise _refusal(response, url, hint)
            yield response
        finally:
            response.close()


def get_json(
    url: str, parameters: Mapping[str, str | int] | None = None, *, token: Bearer | None = None, hint: str = ""
) -> Any:
    """What a server answers in JSON. Raises as `opened` does."""
    query = f"?{httpx2.QueryParams(dict(parameters))}" if parameters else ""
    with opened(url + query, token=token, hint=hint) as response:
        host = response.url.host
        body = _body(response.iter_bytes(), LARGEST_ANSWER, host)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise NetworkError(f"{host}: answers with something else than JSON; a proxy or login page?") from None


def get_public(url: str, *, most: int, seconds: float) -> bytes:
    """What stands at an address that somebody elsewhere named: never in a private network, nor by way of a redirect.

    most: bytes; seconds: for everything together. Raises NetworkError, AccessError, FileError (there is nothing),
    OptionError (not a URL).
    """
    with (
        Deadline(seconds) as deadline,
        _told(url),
        httpx2.Client(transport=PublicOnly(), trust_env=False, timeout=TIMEOUT, headers=AGENT) as client,
    ):
        headers = {"Accept-Encoding": "identity"}
        request = client.build_request("GET", url, headers=headers, extensions={"trace": deadline.trace})
        if request.url.scheme not in ("http", "https"):
            raise httpx2.UnsupportedProtocol("neither http nor https")
        try:
            response = _follow(client, request, None, pinned=True)
            try:
                if not response.is_success:
                    raise _refusal(response, url, "")
                return bytes(_body(response.iter_raw(), most, response.url.host))
            finally:
                response.close()
        except httpx2.HTTPError as error:
            if deadline.passed:
                raise NetworkError(f"{_host(error, url)}: took longer than {seconds:g} seconds") from error
            raise


def _body(pieces: Iterator[bytes], most: int, host: str) -> bytearray:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > most:
            raise NetworkError(f"{host}: sends more than {most >> 20} MiB; refused")
    return body


def shown(url: str) -> str:
    """A URL as it may be shown: without what may be secret in it, nor what a terminal would obey."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return repr(re.split(r"[?#@]", url)[0][:60])
    path = parsed.raw_path.partition(b"?")[0]
    return f"{parsed.scheme}://{(parsed.netloc + path).decode('ascii', 'replace')}"[:200]


# Following redirects


def _patiently(client: httpx2.Client, request: httpx2.Request, token: Bearer | None) -> httpx2.Response:
    """The first answer that is not "busy, come back in a moment"."""
    for waits in range(MOST_WAITS + 1):
        response = _follow(client, request, token)
        wait = _wait_asked(response, 2.0**waits)
        if wait is None:
            return response
        response.close()
        host = response.url.host
        if waits == MOST_WAITS or wait > LONGEST_WAIT:
            raise NetworkError(f"{host}: too many requests ({response.status_code}); try again in {wait:.0f} s")
        log.info("%s is busy (%d); waiting %.0f s", host, response.status_code, wait)
        time.sleep(wait)
    raise AssertionError("the loop above returns or raises")


def _wait_asked(response: httpx2.Response, otherwise: float) -> float | None:
    """Seconds that a busy server asks to wait; None where it is not busy, or is out of order and does not say."""
    if response.status_code not in BUSY:
        return None
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked[:9])
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return otherwise if response.status_code == HTTPStatus.TOO_MANY_REQUESTS else None


def _follow(
    client: httpx2.Client, request: httpx2.Request, token: Bearer | None, *, pinned: bool = False
) -> httpx2.Response:
    """The answer at the end of the redirects; httpx takes the token off a request that leaves its server.

    pinned: the client's connections are PublicOnly, and there is nothing to look at afterwards.
    """
    border = _Border(request.url)
    auth: httpx2.Auth | None = token
    for _ in range(MOST_REDIRECTS):
        response = client.send(request, stream=True, auth=auth, follow_redirects=False)
        try:
            if not pinned:
                border.refuse_peer(response)
            if response.next_request is None:
                return response
            border.refuse(response.next_request.url)
        except BaseException:
            response.close()
            raise
        response.close()
        request, auth = response.next_request, None
    raise NetworkError(f"{border.start.host}: sends from one address to the next without end")


class _Border:
    """Where redirects may lead: anywhere public. To a private address only where the user named that host."""

    def __init__(self, start: httpx2.URL):
        self.start = start
        self.inside = any(map(is_private, addresses(start)))

    def refuse(self, url: httpx2.URL) -> None:
        if url.scheme not in ("http", "https") or (self.start.scheme == "https" and url.scheme == "http"):
            raise NetworkError(f"{self.start.host}: redirects from {self.start.scheme} to {url.scheme[:20]}; refused")
        if any(map(is_private, addresses(url))) and not self._is_named(url):
            raise NetworkError(f"{self.start.host}: redirects to {url.host}, an address in a private network; refused")

    def refuse_peer(self, response: httpx2.Response) -> None:
        """The same for where the connection really went: a name may resolve to another address each time."""
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream and not urllib.request.getproxies() else None
        if peer and is_private(peer[0]) and not self._is_named(response.url):
            raise NetworkError(f"{response.url.host}: its address is in a private network; refused")

    def _is_named(self, url: httpx2.URL) -> bool:
        return self.inside and url.host == self.start.host


# What went wrong, in one line


def _refusal(response: httpx2.Response, url: str, hint: str) -> VaekitError:
    host, status = response.url.host, response.status_code
    if status == HTTPStatus.UNAUTHORIZED:
        return AccessError(f"{host}: wants a login for {shown(url)} (401){hint and '; '}{hint}")
    if status == HTTPStatus.FORBIDDEN:
        return AccessError(
            f"{host}: gives no access to {shown(url)} (403): for members, for early access, or a licence to accept "
            f"on its page{hint and '; '}{hint}"
        )
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return FileError(f"{host}: there is nothing at {shown(url)} ({status})")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Dropped(f"{host}: is out of order ({status})")
    return NetworkError(f"{host}: refuses {shown(url)} ({status})")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """httpx's errors as ours. Their own words are left out where they might quote a header."""
    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise OptionError(f"{shown(url)}: not an address that begins with https:// or http://") from error
    except httpx2.ProxyError as error:
        raise NetworkError(f"{_host(error, url)}: the proxy refuses ({_short(error)})") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise Unreachable(f"no connection to {_host(error, url)} ({_short(error)}); are you offline?") from error
    except httpx2.TimeoutException as error:
        raise Dropped(f"{_host(error, url)}: stopped answering") from error
    except httpx2.HTTPError as error:
        raise Dropped(f"{_host(error, url)}: broke the connection off") from error


def _host(error: httpx2.HTTPError, url: str) -> str:
    try:
        return error.request.url.host
    except RuntimeError:  # it has none
        return httpx2.URL(url).host


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

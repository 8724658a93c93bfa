"""Which addresses are public, and connections that go to no others."""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx2

from vaekit.errors import NetworkError

TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that a network's translator (NAT64) takes for the IPv4 address in their last bits."""
TUNNELS = ipaddress.ip_network("2002::/16")
"""6to4: leads to the IPv4 address inside, whichever that is."""
MOST_TRIED = 4
"""Addresses of one name that are tried."""


def addresses(url: httpx2.URL) -> list[str]:
    """What a host's name stands for; nothing where it is not known here (it may be to a proxy)."""
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(url.host, url.port or 80, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def is_private(address: str) -> bool:
    """Whether it is anything but a public unicast address, or an IPv6 form of an IPv4 address that is."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return True
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped
        if parsed in TRANSLATED:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is None:
            return _is_special(parsed) or parsed.is_site_local or parsed in TUNNELS
        parsed = inner
    return _is_special(parsed)


def _is_special(parsed: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not parsed.is_global or parsed.is_multicast or parsed.is_reserved


class PublicOnly(httpx2.BaseTransport):
    """Connects to public addresses alone, and never by way of a proxy, which would resolve names by itself.

    A name is resolved once for each request, everything that it stands for is judged, and the connection is made to
    what was judged: a name that means another address a moment later changes nothing. Raises NetworkError.
    """

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        found = addresses(url)
        if any(map(is_private, found)):
            raise NetworkError(f"{url.host}: its address is in a private network; refused")
        last: Exception = httpx2.ConnectError(f"{url.host} is not known", request=request)
        for address in dict.fromkeys(found[:MOST_TRIED]):
            pinned = httpx2.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # Host among them
                stream=request.stream,
                extensions=request.extensions | {"sni_hostname": url.host},
            )
            try:
                return self._inner.handle_request(pinned)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                last = error
        raise last

    def close(self) -> None:
        self._inner.close()


class Deadline:
    """Cuts connections when their time is over, however slowly something still trickles in.

    trace: goes into a request's extensions, and learns of its connections.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.passed = False
        self._streams: list[Any] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._streams.append(info["return_value"])
        if self.passed:
            raise httpx2.ReadTimeout("no time left")

    def _cut(self) -> None:
        self.passed = True
        for stream in self._streams:
            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

"""What is fetched because somebody elsewhere named its address: from public addresses alone, bounded in size and time.

A resolver of the test's own names addresses; connections to the public one among them end at the local server.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from catalog.server import Fault, Server, running

from vaekit.catalog.addresses import is_private
from vaekit.catalog.web import get_public
from vaekit.errors import FileError, NetworkError, OptionError, VaekitError

PUBLIC = "93.184.215.14"
Resolver = dict[str, list[list[str]]]
"""Host -> the addresses of the first question, the second, and so on; the last ones stay."""


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def connected(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections were made to."""
    made: list[str] = []
    real = socket.create_connection

    def connect(address: tuple[str, int], *args: Any, **options: Any) -> Any:
        made.append(address[0])
        if address[0] == "198.51.100.1":
            raise ConnectionRefusedError
        return real(("127.0.0.1", int(server.url.rpartition(":")[2])), *args, **options)

    monkeypatch.setattr(socket, "create_connection", connect)
    return made


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    known: Resolver = {}
    real = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in known:
            if str(host).endswith(".test"):
                raise socket.gaierror(-2, "not known")
            return real(host, port, *args, **options)
        found = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


def get(url: str, most: int = 1000, seconds: float = 5.0) -> bytes:
    return get_public(url, most=most, seconds=seconds)


def test_a_public_address_is_asked_under_its_name_and_connected_to_by_its_number(
    server: Server, names: Resolver, connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # would resolve by itself
    names["pictures.test"] = [[PUBLIC]]
    server.put("/a.png", b"picture")
    assert get("http://pictures.test/a.png") == b"picture"
    assert connected == [PUBLIC]
    assert server.asked[0].headers["host"] == "pictures.test"
    assert "authorization" not in server.asked[0].headers


def test_a_name_that_means_another_address_a_moment_later_gains_nothing(
    server: Server, names: Resolver, connected: list[str]
) -> None:
    """However the answers change, nothing is connected to that was not judged."""
    server.put("/a.png", b"picture")
    for first in range(4):
        connected.clear()
        names["rebound.test"] = [[PUBLIC]] * first + [["127.0.0.1"]] * 9
        try:
            get("http://rebound.test/a.png")
        except NetworkError as error:
            assert "private network" in str(error)
        assert set(connected) <= {PUBLIC}


def test_one_private_address_among_public_ones_is_enough_to_refuse(names: Resolver, connected: list[str]) -> None:
    names["both.test"] = [[PUBLIC, "10.0.0.1"]]
    with pytest.raises(NetworkError, match="private network"):
        get("http://both.test/a.png")
    assert connected == []


def test_the_next_address_is_tried_where_one_does_not_answer(
    server: Server, names: Resolver, connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.catalog.addresses.is_private", lambda address: False)
    names["two.test"] = [["198.51.100.1", PUBLIC]]
    server.put("/a.png", b"picture")
    assert get("http://two.test/a.png") == b"picture" and connected == ["198.51.100.1", PUBLIC]


PRIVATE = [
    "127.0.0.1",
    "127.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "::ffff:0:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:db8::1",
    "nonsense",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_private_address_is_reached_by_name_nor_by_redirect(
    server: Server, names: Resolver, connected: list[str], address: str
) -> None:
    assert is_private(address)
    names["inside.test"] = [[address]]
    names["pictures.test"] = [[PUBLIC]]
    with pytest.raises(NetworkError, match="private network"):
        get("http://inside.test/a.png")
    assert connected == []
    server.redirect("/away", "http://inside.test/a.png")
    server.redirect("/hop", "http://pictures.test/away")
    with pytest.raises(NetworkError, match="private network"):
        get("http://pictures.test/hop")
    assert set(connected) == {PUBLIC} and len(server.asked) == 2


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://localhost/x",
        "http://[::1]/x",
        "http://2130706433/x",
        "http://0x7f.1/x",
        "http://0177.0.0.1/x",
        "http://127.1/x",
        "http://[::ffff:7f00:1]/x",
        "file:///etc/passwd",
        "ftp://pictures.test/x",
        "http://",
        "http://unknown.test/x",
        "https://pictures.test@127.0.0.1/x",
    ],
)
def test_other_ways_to_write_it_are_refused_too(names: Resolver, connected: list[str], url: str) -> None:
    names["pictures.test"] = [[PUBLIC]]
    with pytest.raises(VaekitError):
        get(url)
    assert connected == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://pictures.test/x", "http://127.0.0.1/x", "//localhost/x"])
def test_each_redirect_is_judged(server: Server, names: Resolver, connected: list[str], to: str) -> None:
    names["pictures.test"] = [[PUBLIC]]
    server.redirect("/a", to)
    with pytest.raises(NetworkError, match="refused"):
        get("http://pictures.test/a")
    assert connected == [PUBLIC]


def test_redirects_in_a_circle_end(server: Server, names: Resolver, connected: list[str]) -> None:
    names["pictures.test"] = [[PUBLIC]]
    server.redirect("/a", "/a")
    with pytest.raises(NetworkError, match="without end"):
        get("http://pictures.test/a")


def test_too_much_and_nothing_are_refused(server: Server, names: Resolver, connected: list[str]) -> None:
    names["pictures.test"] = [[PUBLIC]]
    server.put("/large", b"x" * 1001)
    server.put("/endless", b"x" * 100_000, chunked=True)
    for path in ("large", "endless"):
        with pytest.raises(NetworkError, match="sends more than"):
            get(f"http://pictures.test/{path}")
    with pytest.raises(FileError, match="404"):
        get("http://pictures.test/none")
    server.put("/busy", b"", always=Fault(429, {"Retry-After": "60"}))
    with pytest.raises(NetworkError, match="429"):
        get("http://pictures.test/busy")
    with pytest.raises(OptionError):
        get("gopher://pictures.test/")


def _in_headers(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(400):
        client.sendall(f"X-{number}: y\r\n".encode())
        time.sleep(0.05)


def _in_the_body(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")
    for _ in range(400):
        client.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("trickle", [_in_headers, _in_the_body])
def test_what_trickles_in_is_cut_off(
    names: Resolver, monkeypatch: pytest.MonkeyPatch, trickle: Callable[[socket.socket], None]
) -> None:
    names["slow.test"] = [[PUBLIC]]
    listening = socket.create_server(("127.0.0.1", 0))
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda _, *a, **o: real(listening.getsockname(), *a, **o))

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(4096)
            with contextlib.suppress(OSError):
                trickle(client)

    thread = threading.Thread(target=serve)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(NetworkError, match="took longer than"):
        get("http://slow.test/x", seconds=0.5)
    assert time.monotonic() - begun < 5
    thread.join(30)
    listening.close()

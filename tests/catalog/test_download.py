"""Downloads from servers that fail and lie: a file is there only when it is whole and right."""

from __future__ import annotations

import random
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from catalog.server import Fault, Server, listen, running, sha256
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit.catalog import download as downloading
from vaekit.catalog.download import Remote, download, published_name
from vaekit.catalog.web import AccessError, Bearer, NetworkError, get_json
from vaekit.errors import FileError, OptionError, OutputError, VaekitError

CONTENT = random.Random(0).randbytes(300_000)
SECRET = "s3cr3t-token-value"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "PAUSE", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "vae.safetensors"


def remote(server: Server, path: str = "/vae.safetensors", **options: Any) -> Remote:
    return Remote(server.url + path, **options)


def refused(server: Server, target: Path, kind: type[VaekitError] = VaekitError, **options: Any) -> str:
    """The one line that a download ends with; nothing is at the target."""
    with pytest.raises(kind) as caught:
        download(remote(server, **options), target)
    assert not target.exists()
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in repr(caught.value)
    return line


def ranges(server: Server, path: str = "/vae.safetensors") -> list[str | None]:
    return [asked.headers.get("range") for asked in server.asked_for(path)]


def test_a_file_comes_whole_and_leaves_nothing_beside_it(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT)
    seen: list[tuple[str, int, int | None]] = []
    download(remote(server, sha256=sha256(CONTENT)), target, progress=lambda *told: seen.append(told))
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert seen[-1] == ("vae.safetensors", len(CONTENT), len(CONTENT))


def test_a_connection_dropped_in_the_middle_is_gone_on_with(server: Server, target: Path) -> None:
    page = server.put("/vae.safetensors", CONTENT)
    page.faults += [Fault(drop_after=100_000), Fault(drop_after=50_000)]
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT
    first, second, third = server.asked_for("/vae.safetensors")
    assert "range" not in first.headers
    assert second.headers["range"] == "bytes=100000-"
    assert third.headers["range"] == "bytes=150000-"
    assert second.headers["if-range"] == page.etag


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drops=st.lists(st.integers(0, 400_000), max_size=4), ranges=st.booleans(), tagged=st.booleans())
def test_wherever_it_drops_the_file_is_the_same(
    server: Server, tmp_path: Path, drops: list[int], ranges: bool, tagged: bool
) -> None:
    page = server.put("/vae.safetensors", CONTENT, ranges=ranges, **({} if tagged else {"etag": None}))
    page.faults += [Fault(drop_after=drop) for drop in drops]
    goal = tmp_path / "vae.safetensors"
    goal.unlink(missing_ok=True)
    download(remote(server, sha256=sha256(CONTENT)), goal)
    assert goal.read_bytes() == CONTENT


def test_what_an_earlier_call_got_is_not_fetched_again(server: Server, target: Path) -> None:
    page = server.put("/vae.safetensors", CONTENT, faults=[Fault(drop_after=120_000), *[Fault(status=500)] * 9])
    line = refused(server, target, NetworkError, sha256=sha256(CONTENT))
    assert "out of order (500)" in line
    assert "0.1 MB of it are kept" in line
    page.faults.clear()
    server.asked.clear()
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == ["bytes=120000-"]


def test_what_came_before_ctrl_c_is_not_fetched_again(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT)

    def stopped(name: str, done: int, total: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(remote(server), target, progress=stopped)
    assert not target.exists()
    download(remote(server), target)
    assert target.read_bytes() == CONTENT
    first, second = ranges(server)
    assert first is None
    assert second is not None and int(second.removeprefix("bytes=").removesuffix("-")) > 100_000


def test_a_file_that_changed_on_the_server_is_fetched_anew(server: Server, target: Path) -> None:
    page = server.put("/vae.safetensors", CONTENT, faults=[Fault(drop_after=120_000), *[Fault(status=500)] * 9])
    refused(server, target)
    newer = CONTENT[::-1]
    server.put("/vae.safetensors", newer)
    download(remote(server), target)
    assert target.read_bytes() == newer
    assert page.etag != server.pages["/vae.safetensors"].etag


def test_a_piece_that_nothing_vouches_for_is_fetched_anew(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, etag=None, faults=[Fault(drop_after=120_000)])
    download(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, None]


def test_a_piece_of_another_file_is_found_out_by_the_hash(server: Server, target: Path) -> None:
    target.parent.mkdir()
    server.put("/vae.safetensors", CONTENT, etag=None, faults=[Fault(drop_after=120_000), *[Fault(status=500)] * 9])
    refused(server, target, sha256=sha256(CONTENT))
    part = target.with_name("vae.safetensors.part")
    part.write_bytes(bytes(120_000))
    server.pages["/vae.safetensors"].faults.clear()
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT


def test_a_piece_left_by_another_address_is_not_used(server: Server, target: Path) -> None:
    server.put("/other", CONTENT[::-1], faults=[Fault(drop_after=120_000), *[Fault(status=500)] * 9])
    server.put("/vae.safetensors", CONTENT)
    refused(server, target, path="/other")
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None]


@pytest.mark.parametrize("note", [b"", b"[]", b'"x"', b'{"source": 1}', b"\xff"])
def test_a_broken_note_beside_a_piece_is_no_hindrance(server: Server, target: Path, note: bytes) -> None:
    server.put("/vae.safetensors", CONTENT)
    target.parent.mkdir()
    target.with_name("vae.safetensors.part").write_bytes(b"something")
    target.with_name("vae.safetensors.part.json").write_bytes(note)
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_kept(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT)
    line = refused(server, target, FileError, sha256=sha256(b"something else"))
    assert sha256(CONTENT)[:16] in line
    assert sha256(b"something else")[:16] in line
    assert list(target.parent.iterdir()) == []


def test_another_size_than_published_is_refused_before_it_is_fetched(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT)
    line = refused(server, target, FileError, size=len(CONTENT) + 1)
    assert f"announces {len(CONTENT)} bytes, published are {len(CONTENT) + 1}" in line
    assert list(target.parent.iterdir()) == []


def test_a_length_that_claims_more_than_there_is_is_told(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, announces=len(CONTENT) + 500)
    line = refused(server, target, FileError)
    assert f"announces {len(CONTENT) + 500} bytes and gives {len(CONTENT)}" in line


def test_a_length_that_claims_more_does_no_harm_where_the_hash_is_known(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, announces=len(CONTENT) + 500)
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT


def test_a_length_that_claims_less_is_found_out_by_the_hash(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, announces=len(CONTENT) - 500)
    line = refused(server, target, FileError, sha256=sha256(CONTENT))
    assert "damaged, or another file" in line


def test_a_server_that_never_gets_further_is_given_up(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, always=Fault(drop_after=0))
    line = refused(server, target, NetworkError)
    assert "broke the connection off" in line
    assert len(server.asked) == downloading.MOST_TRIES


def test_a_body_without_a_length_is_taken_as_it_is(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, chunked=True)
    download(remote(server, sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == CONTENT


def test_a_body_without_end_is_cut_off(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "LARGEST", 100_000)
    server.put("/vae.safetensors", CONTENT, chunked=True)
    assert "more than it announced" in refused(server, target, FileError)


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/vae.safetensors", CONTENT)
    free = downloading.SPARE + len(CONTENT) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    assert "disk is too full: 0.3 MB to come" in refused(server, target, OutputError)
    assert list(target.parent.iterdir()) == []


def test_a_disk_that_fills_up_is_one_line_and_the_piece_is_kept(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/vae.safetensors", CONTENT)

    def full(*told: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"No space left on device; \d\.\d MB of it are kept"):
        download(remote(server), target, progress=full)


def test_a_busy_server_is_waited_for_as_it_asks(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    page = server.put("/vae.safetensors", CONTENT)
    page.faults += [Fault(429, {"Retry-After": "7"}), Fault(503, {"Retry-After": later}), Fault(429)]
    download(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert waited[0] == 7
    assert 25 < waited[1] <= 30
    assert 0 < waited[2] <= 10


@pytest.mark.parametrize("asked", ["3600", "99999999999999999999", "1e9", "-5", "²"])
def test_a_server_that_stays_busy_is_given_up(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    headers = {"Retry-After": asked} if asked.isascii() else {}
    server.put("/vae.safetensors", CONTENT, always=Fault(429, headers))
    line = refused(server, target, NetworkError)
    assert "too many requests (429); try again in" in line
    assert sum(waited) < 200


def test_a_token_goes_to_its_server_and_nowhere_else(server: Server, target: Path) -> None:
    with running() as store:
        store.put("/blob", CONTENT)
        elsewhere = store.url.replace("127.0.0.1", "localhost")
        server.redirect("/vae.safetensors", server.url + "/again", token=SECRET)
        server.redirect("/again", elsewhere + "/blob", token=SECRET)
        with pytest.raises(NetworkError, match="private network"):
            download(remote(server, token=Bearer(SECRET, "a test")), target)
        server.redirect("/again", store.url + "/blob", token=SECRET)
        download(remote(server, token=Bearer(SECRET, "a test")), target)
        assert target.read_bytes() == CONTENT
        assert all("authorization" not in asked.headers for asked in store.asked)
    assert all(asked.headers["authorization"] == f"Bearer {SECRET}" for asked in server.asked)


def test_a_login_is_asked_for_in_one_line(server: Server, target: Path) -> None:
    server.put("/vae.safetensors", CONTENT, token="another")
    line = refused(server, target, AccessError, token=Bearer(SECRET, "a test"), hint="do this")
    assert "wants a login" in line
    assert line.endswith("do this")


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (403, AccessError, "gives no access"),
        (404, FileError, "there is nothing at"),
        (410, FileError, "there is nothing at"),
        (400, NetworkError, "refuses"),
        (304, NetworkError, "refuses"),
        (502, NetworkError, "out of order"),
    ],
)
def test_other_refusals_are_one_line_without_secrets(
    server: Server, target: Path, status: int, kind: type[VaekitError], told: str
) -> None:
    server.put("/vae.safetensors", CONTENT, always=Fault(status, body=b"\x1b[31mred"))
    line = refused(server, target, kind, path=f"/vae.safetensors?token={SECRET}")
    assert told in line
    assert "\x1b" not in line


@pytest.mark.parametrize("secret", ["two words", "line\nbreak", "ключ", "bell\a"])
def test_a_token_that_cannot_be_one_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(OptionError) as caught:
        Bearer(secret, "CIVITAI_API_TOKEN")
    assert "CIVITAI_API_TOKEN" in str(caught.value)
    assert secret not in str(caught.value)


def test_no_token_is_in_the_log(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(monkeypatch, caplog, "DEBUG")
    server.put("/vae.safetensors", CONTENT, token=SECRET, faults=[Fault(drop_after=1000)])
    path = f"/vae.safetensors?token={SECRET}"
    download(remote(server, path, token=Bearer(f" {SECRET}\n", "a test")), target)
    assert f"{server.url}/vae.safetensors" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in repr(Bearer(SECRET, "a test"))


def test_a_login_page_in_place_of_the_file_is_told_as_such(server: Server, target: Path) -> None:
    server.redirect("/vae.safetensors", "/login?returnUrl=x")
    server.put("/login", b"<html>", kind="text/html; charset=utf-8")
    line = refused(server, target, AccessError, sha256=sha256(CONTENT), hint="do this")
    assert "a web page instead of the file" in line
    assert line.endswith("do this")


def test_an_address_is_shown_without_what_a_terminal_would_obey(server: Server, target: Path) -> None:
    line = refused(server, target, FileError, path=f"/%1b[31m?token={SECRET}")
    assert line.isprintable()
    assert "/%1b[31m (404)" in line


# Where redirects lead

PRIVATE = [
    "http://10.0.0.1/",
    "http://192.168.1.1/admin",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]:9/",
    "http://[::ffff:127.0.0.1]:9/",
    "http://[fe80::1]/",
    "http://0.0.0.0:9/",
    "http://2130706433:9/",
    "http://0x7f.1:9/",
    "http://localhost:9/",
    "http://100.64.0.1/",
    "//192.168.1.1/x",
    "ftp://example.com/x",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_redirect_into_a_private_network_is_refused(server: Server, target: Path, address: str) -> None:
    server.redirect("/vae.safetensors", address)
    line = refused(server, target, NetworkError)
    assert line.startswith("127.0.0.1: redirects ")
    assert line.endswith("; refused")
    assert len(server.asked) == 1


def test_a_public_name_may_not_turn_into_a_private_address(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is public when it is looked at and private when it is connected to."""
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    port = int(server.url.rpartition(":")[2])
    real, calls = socket.getaddrinfo, list[str]()

    def rebinding(host: Any, *args: Any, **options: Any) -> Any:
        if host in ("rebound.test", b"rebound.test"):
            calls.append("rebound.test")
            public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]
            return public if len(calls) == 1 else real("127.0.0.1", *args, **options)
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    server.put("/vae.safetensors", CONTENT)
    with pytest.raises(NetworkError, match=r"rebound\.test: its address is in a private network"):
        download(Remote(f"http://rebound.test:{port}/vae.safetensors"), target)
    assert len(calls) > 1
    assert not target.exists()


def test_redirects_in_a_circle_end(server: Server, target: Path) -> None:
    server.redirect("/vae.safetensors", "/vae.safetensors")
    assert "without end" in refused(server, target, NetworkError)


def test_a_redirect_on_the_host_that_the_user_named_is_followed(server: Server, target: Path) -> None:
    server.redirect("/vae.safetensors", "store/blob?X-Amz-Signature=abc")
    server.put("/store/blob", CONTENT)
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


# No network


def test_without_a_connection_there_is_one_line_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(NetworkError, match=r"no connection to 127\.0\.0\.1 .*are you offline\?"):
            download(Remote(f"http://127.0.0.1:{port}/vae.safetensors"), target)
    assert waited == []


def test_a_name_that_does_not_resolve_is_one_line(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*args: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    with pytest.raises(NetworkError, match=r"no connection to civitai\.example .*name resolution.*offline"):
        download(Remote("https://civitai.example/vae.safetensors"), target)


@pytest.mark.parametrize("url", ["ftp://a.example/x", "https:///x", "https://[", "http://a b/", "nonsense", "http://"])
def test_what_is_no_address_is_one_line(target: Path, url: str) -> None:
    with pytest.raises(VaekitError) as caught:
        download(Remote(url), target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_no_permission_is_one_line(server: Server, tmp_path: Path) -> None:
    server.put("/vae.safetensors", CONTENT)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        download(remote(server), tmp_path / "file" / "vae.safetensors")


# Names, and answers in JSON


def test_a_name_comes_from_the_address_or_else_from_the_server(server: Server) -> None:
    server.put("/get/17", CONTENT, headers={"Content-Disposition": 'attachment; filename="my vae.safetensors"'})
    assert published_name(server.url + "/get/17?x=/a.ckpt") == "my vae.safetensors"
    server.asked.clear()
    assert published_name(server.url + "/a/my%20vae.ckpt?token=x") == "my vae.ckpt"
    assert server.asked == []


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 100_000, b""])
def test_an_answer_that_is_not_json_is_one_line(server: Server, body: bytes) -> None:
    server.put("/api", body)
    with pytest.raises(NetworkError, match="something else than JSON"):
        get_json(server.url + "/api")


def test_the_server_of_these_tests_has_real_ranges() -> None:
    """Against Python's own client, so that the tests above do not test a mistake of their server."""
    import urllib.request

    with running() as server:
        server.put("/file", CONTENT)
        request = urllib.request.Request(server.url + "/file", headers={"Range": "bytes=10-19"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert (answer.status, answer.read()) == (206, CONTENT[10:20])
            assert answer.headers["Content-Range"] == f"bytes 10-19/{len(CONTENT)}"

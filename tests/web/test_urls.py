"""Pictures by URL: off by default; when on, fetched before the turn comes, and from public addresses alone."""

from __future__ import annotations

import base64
import io
import json
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from vaekit.errors import NetworkError
from vaekit.web import fetching
from vaekit.web.app import create
from vaekit.web.desk import Desk

DRAW = {"prompt": "x", "steps": 2, "seed": 3, "width": 32, "height": 32, "sampler_name": "Euler"}
URL = "https://pictures.test/a.png"


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that were fetched; each gives the same picture."""
    urls: list[str] = []
    monkeypatch.setattr(fetching, "get_public", lambda url, **_: (urls.append(url), picture())[1])
    return urls


@pytest.fixture
def fetching_client(desk: Desk) -> TestClient:
    return TestClient(create(desk, urls=True), base_url="http://127.0.0.1")


BY_URL: list[tuple[str, dict[str, Any]]] = [
    ("/sdapi/v1/img2img", DRAW | {"init_images": [URL]}),
    ("/sdapi/v1/img2img", DRAW | {"init_images": [base64.b64encode(picture()).decode()], "mask": URL}),
    ("/sdapi/v1/png-info", {"image": URL}),
    ("/api/v1/encode", {"image": URL, "vae": "mini"}),
    ("/api/v1/compare", {"image": URL, "vaes": ["mini"]}),
    ("/api/v1/doctor", {"image": URL}),
    ("/api/v1/picture", {"image": URL}),
]


@pytest.mark.parametrize(("path", "wish"), BY_URL, ids=lambda one: one if isinstance(one, str) else "")
def test_urls_are_refused_unless_the_server_was_started_to_fetch_them(
    client: TestClient, fetching_client: TestClient, asked: list[str], path: str, wish: dict[str, Any]
) -> None:
    answer = client.post(path, json=wish)
    assert answer.status_code == 422 and "not fetched by URL" in answer.json()["detail"] and asked == []
    assert fetching_client.post(path, json=wish).status_code == 200 and asked == [URL]


def test_a_picture_by_url_draws_what_the_same_picture_draws(fetching_client: TestClient, asked: list[str]) -> None:
    sent = [URL, base64.b64encode(picture()).decode()]
    a, b = (fetching_client.post("/sdapi/v1/img2img", json=DRAW | {"init_images": [one]}).json() for one in sent)
    assert a["images"] == b["images"]
    assert fetching_client.get("/sdapi/v1/cmd-flags").json()["allow_urls"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]/x", "http://169.254.169.254/latest/meta-data"]
)
def test_private_addresses_are_refused_and_the_server_goes_on(fetching_client: TestClient, url: str) -> None:
    answer = fetching_client.post("/api/v1/picture", json={"image": url})
    assert answer.status_code == 503 and "private network" in answer.json()["detail"]
    answer = fetching_client.post("/api/v1/picture", json={"image": "file:///etc/passwd"})
    assert answer.status_code == 422 and "http" in answer.json()["detail"]


def test_options_cannot_switch_it_on(client: TestClient) -> None:
    for name in ("api_enable_requests", "allow_urls"):
        assert client.post("/sdapi/v1/options", json={name: True}).status_code == 422


def test_what_is_no_picture_is_refused(fetching_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "get_public", lambda url, **_: b"<html>no</html>")
    answer = fetching_client.post("/sdapi/v1/img2img", json=DRAW | {"init_images": [URL]})
    assert answer.status_code == 422 and "not a picture" in answer.json()["detail"]


def test_a_slow_address_holds_up_no_drawing_and_few_wait_for_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(url: str, **_: Any) -> bytes:
        go.wait(30)
        raise NetworkError("too slow")

    monkeypatch.setattr(fetching, "get_public", slow)
    monkeypatch.setattr(fetching, "WAITING", 1)
    told: list[int] = []
    with TestClient(create(desk, urls=True), base_url="http://127.0.0.1") as client:
        threads = [
            threading.Thread(
                target=lambda: told.append(client.post("/api/v1/picture", json={"image": URL}).status_code)
            )
            for _ in range(fetching.AT_ONCE + 2)
        ]
        for thread in threads:
            thread.start()
        while not told:
            threading.Event().wait(0.05)
        assert told == [429]
        answer = client.post("/sdapi/v1/txt2img", json=DRAW)
        assert answer.status_code == 200 and json.loads(answer.json()["info"])["seed"] == 3
        go.set()
        for thread in threads:
            thread.join(30)
    assert sorted(told) == [429, *[503] * (fetching.AT_ONCE + 1)]

"""A server's application over a small model with random weights, in a profile of its own."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from generate.models import write_folder

from vaekit import assets
from vaekit.web.app import create
from vaekit.web.desk import Desk
from vaekit.web.options import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session", autouse=True)
def no_places_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches and folders of models of nobody."""
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
        os.environ[variable] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a VAE, and a VAE of its family."""
    folder = tmp_path_factory.mktemp("models")
    write_folder(folder / "small-sd")
    (folder / "vae").mkdir()
    (weights,) = assets.model_folder("mini-pale").glob("*.safetensors")
    shutil.copy(weights, folder / "vae" / "pale-copy.safetensors")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def desk(models: Path, tmp_path: Path) -> Iterator[Desk]:
    store = Store(tmp_path / "web.json")
    store.change({"sd_model_checkpoint": "small-sd"})
    desk = Desk(store, tmp_path / "outputs", [models], "cpu")
    yield desk
    desk.close()


@pytest.fixture
def app(desk: Desk) -> FastAPI:
    return create(desk)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The application behind a socket, for clients that need one."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    listening.close()

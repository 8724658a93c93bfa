"""The Quicksettings story over a server that is killed, and started again as a new process on the same files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from page_driving import draw

SLOW = 60_000
"""Milliseconds."""


@contextmanager
def serving(port: int, home: Path, models: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`vaekit serve` as a process; killed in the end, without a chance to write anything."""
    homes = {name: str(home) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "HOME")}
    command = [sys.executable, "-m", "vaekit", "serve", "--port", str(port), "--models", str(models), "--device", "cpu"]
    with subprocess.Popen(command, env=os.environ | homes, cwd=home, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                assert server.poll() is None
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
                    break
                except httpx2.HTTPError:
                    time.sleep(0.1)
            yield server
        finally:
            server.kill()
            server.wait(30)


@contextmanager
def fresh_page(browser: Any, port: int) -> Iterator[Any]:
    """In a profile that knows nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en")
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(f"http://127.0.0.1:{port}")
    yield page
    context.close()


def drawn(page: Any) -> str:
    page.get_by_role("tab", name="txt2img").click()
    return draw(page, Width=64, Height=64)


def test_drop_down_and_choice_are_there_after_the_server_was_killed(browser: Any, models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(port, tmp_path, models) as server, fresh_page(browser, port) as page:
        page.get_by_text("VAE: Automatic → mini").wait_for()
        before = drawn(page)
        page.get_by_role("tab", name="Settings").click()
        page.locator("#set-quicksettings_list").select_option(["sd_model_checkpoint", "sd_vae"])
        page.get_by_role("button", name="Apply settings").click()
        page.get_by_text("1 changed: quicksettings_list").wait_for()
        page.get_by_role("button", name="Reload UI").click()
        page.locator("#quick").get_by_label("SD VAE", exact=True).select_option("pale-copy.safetensors")
        page.get_by_text("VAE: pale-copy.safetensors → ").wait_for()
        chosen = drawn(page)
        server.kill()
        server.wait(30)
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
        page.get_by_text("The server does not answer.").wait_for()
    with serving(port, tmp_path, models), fresh_page(browser, port) as page:
        page.get_by_text("VAE: pale-copy.safetensors → pale-copy.safetensors: it was asked for").wait_for()
        box = page.locator("#quick").get_by_label("SD VAE", exact=True)
        assert box.input_value() == "pale-copy.safetensors"
        assert drawn(page) == chosen != before
        box.select_option("Automatic")
        page.get_by_text("VAE: Automatic → mini").wait_for()
        assert drawn(page) == before

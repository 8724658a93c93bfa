"""The page in a real browser: Quicksettings from a fresh profile to the changed picture; img2img, interrupt, errors."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

from vaekit import assets
from vaekit.web.app import create
from vaekit.web.desk import Desk

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SLOW = 60_000
"""Milliseconds."""


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create(desk), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    listening.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(SLOW)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.get_by_text("VAE: Automatic → mini").wait_for()
    yield page
    page.close()
    assert problems == []


def draw(page: Any, **fields: object) -> str:
    """The source of the picture that comes."""
    wished = {"Prompt": "a red apple", "Sampling steps": 2, "Seed": 3, "Width": 32, "Height": 32} | fields
    for label, value in wished.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.evaluate("document.getElementById('gallery').replaceChildren()")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    return str(page.locator("#gallery img").first.get_attribute("src"))


def test_quicksettings_from_a_fresh_profile_to_the_changed_picture(page: Any, tmp_path: Path) -> None:
    assert page.get_by_label("SD VAE", exact=True).count() == 1  # in Settings only
    before = draw(page)
    page.get_by_role("tab", name="Settings").click()
    page.get_by_label("Quicksettings list").select_option(["sd_model_checkpoint", "sd_vae"])
    page.get_by_role("button", name="Apply settings").click()
    page.get_by_text("1 changed: quicksettings_list").wait_for()
    page.get_by_role("button", name="Reload UI").click()
    chosen = page.locator("#quick").get_by_label("SD VAE", exact=True)
    chosen.wait_for()
    assert chosen.locator("option").all_text_contents()[:2] == ["Automatic", "None"]
    chosen.select_option("pale-copy.safetensors")
    page.get_by_text("VAE: pale-copy.safetensors → pale-copy.safetensors: it was asked for").wait_for()
    page.screenshot(path=tmp_path / "quicksettings.png")
    assert draw(page) != before
    page.reload()
    page.get_by_text("VAE: pale-copy.safetensors → ").wait_for()
    page.locator("#quick").get_by_label("SD VAE", exact=True).wait_for()
    assert page.locator("#quick").get_by_label("SD VAE", exact=True).input_value() == "pale-copy.safetensors"


def test_a_picture_is_sent_to_img2img_and_drawn_over(page: Any) -> None:
    first = draw(page)
    page.get_by_role("button", name="Send to img2img").click()
    assert page.get_by_role("tab", name="img2img").get_attribute("aria-selected") == "true"
    assert draw(page, **{"Denoising strength": 0.9}) != first


def test_interrupt_gives_what_there_is(page: Any) -> None:
    page.get_by_label("Prompt", exact=True).fill("x")
    page.get_by_label("Sampling steps").fill("150")
    page.get_by_label("Width").fill("64")
    page.get_by_label("Height").fill("64")
    page.get_by_role("button", name="Generate").click()
    page.locator("#preview").wait_for()
    page.get_by_role("button", name="Interrupt").click()
    page.get_by_text("Interrupted at step").wait_for()
    assert page.get_by_role("button", name="Generate").is_enabled()


def test_the_lab_shows_latents_measures_and_a_slider_between_two(page: Any, tmp_path: Path) -> None:
    with Image.open(assets.photo()) as picture:
        picture.convert("RGB").resize((128, 96)).save(tmp_path / "photo.png")
    page.get_by_role("tab", name="VAE lab").click()
    page.locator("#lab-picture").set_input_files(tmp_path / "photo.png")
    page.locator("#lab-vaes").select_option(["mini", "pale-copy.safetensors"])
    page.get_by_role("button", name="There and back").click()
    page.get_by_role("cell", name="pale-copy.safetensors").wait_for()
    assert page.locator("#lab-channels").get_attribute("src").startswith("data:image/png")
    assert page.locator("#lab-diagnosis li").count() >= 1
    over = page.locator("#lab-over")
    page.locator("#lab-divide").fill("20")
    assert "80%" in over.get_attribute("style")
    before = over.get_attribute("src")
    page.locator("#lab-left").select_option("pale-copy.safetensors")
    assert over.get_attribute("src") != before
    page.screenshot(path=tmp_path / "lab.png", full_page=True)


def test_what_is_refused_is_told_beside_the_form(page: Any) -> None:
    page.get_by_label("Prompt", exact=True).fill("x")
    page.get_by_role("tab", name="img2img").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("choose a picture to begin with").wait_for()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("txt2img", "img2img", "VAE lab", "Settings"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width

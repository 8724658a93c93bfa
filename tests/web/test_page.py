"""The page in a real browser: Quicksettings from a fresh profile to the changed picture; img2img, interrupt, errors."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_driving import draw
from PIL import Image

from vaekit import assets, load
from vaekit.web import app

TEXTS = Path(app.__file__).parent / "page" / "texts"
SLOW = 60_000
"""Milliseconds."""


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en")
    page.set_default_timeout(SLOW)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.get_by_text("VAE: Automatic → mini").wait_for()
    yield page
    page.close()
    assert problems == []


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_quicksettings_from_a_fresh_profile_to_the_changed_picture(page: Any, tmp_path: Path) -> None:
    assert page.locator("#quick").get_by_label("SD VAE", exact=True).count() == 0
    before = draw(page)
    page.get_by_role("tab", name="Settings").click()
    page.locator("#set-quicksettings_list").select_option(["sd_model_checkpoint", "sd_vae"])
    page.get_by_role("button", name="Apply settings").click()
    page.get_by_text("1 changed: quicksettings_list").wait_for()
    page.get_by_role("button", name="Reload UI").click()
    chosen = page.locator("#quick").get_by_label("SD VAE", exact=True)
    chosen.wait_for()
    assert chosen.locator("option").all_text_contents()[:2] == ["Automatic", "None"]
    chosen.select_option("pale-copy.safetensors")
    page.get_by_text("VAE: pale-copy.safetensors → pale-copy.safetensors: it was asked for").wait_for()
    page.screenshot(path=tmp_path / "quicksettings.png")
    page.get_by_role("tab", name="txt2img").click()
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
    assert page.locator("#lab-channels img").count() == 4
    assert page.locator("#lab-diagnosis li").count() >= 1
    over = page.locator("#lab-stage img").nth(1)
    page.locator("#lab-stage input[type=range]").fill("20")
    assert "80%" in over.get_attribute("style")
    before = over.get_attribute("src")
    page.locator("#lab-stage select").first.select_option("pale-copy.safetensors")
    assert over.get_attribute("src") != before
    page.locator("#lab-channels button").first.click()
    assert page.locator("#large").is_visible() and "channel 0" in page.locator("#large p").inner_text()
    page.screenshot(path=tmp_path / "lab.png")


def test_a_latents_file_is_decoded_in_the_lab(page: Any, tmp_path: Path) -> None:
    load("mini", device="cpu").encode(Image.new("RGB", (64, 48), "red")).save(tmp_path / "z.safetensors")
    page.get_by_role("tab", name="VAE lab").click()
    page.locator("#lab-latents").set_input_files(tmp_path / "z.safetensors")
    page.locator("#lab-decode-vae").select_option("mini-pale")
    page.get_by_role("button", name="Decode").click()
    page.get_by_text("From the file: 8×6 cells of family mini").wait_for()
    assert page.locator("#lab-stage img").get_attribute("alt") == "Decoded by mini-pale"


def test_the_steps_of_the_last_generation_are_watched(page: Any) -> None:
    page.get_by_role("tab", name="Watch").click()
    page.get_by_text("no generation was traced yet").wait_for()
    page.get_by_role("tab", name="txt2img").click()
    draw(page, **{"Sampling steps": 4})
    page.get_by_role("tab", name="Watch").click()
    page.get_by_text("Step 1 of 5").wait_for()
    page.locator("#watch-vae").select_option("mini")
    page.locator("#watch-channels[src]").wait_for()
    before = page.locator("#watch-estimate").get_attribute("src")
    page.locator("#watch-step").fill("3")
    page.get_by_text("Step 4 of 5").wait_for()
    page.locator(f"#watch-estimate:not([src='{before}'])").wait_for(state="attached")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("Step 5 of 5").wait_for()


def test_a_generation_is_decoded_again_with_another_vae(page: Any) -> None:
    draw(page)
    page.get_by_role("tab", name="History").click()
    page.locator("#history-list button").click()
    page.locator("#history-vae").select_option("pale-copy.safetensors")
    page.locator("#history-decode").click()
    page.locator("#history-stage .divided img").nth(1).wait_for()
    page.get_by_role("button", name="Forget this one").click()
    page.get_by_text("Nothing is kept yet").wait_for()


def test_a_preference_is_stored_and_a_vae_is_baked_and_extracted(page: Any) -> None:
    page.get_by_role("tab", name="Models").click()
    page.get_by_label("Preferred VAE of small-sd").select_option("pale-copy.safetensors")
    page.get_by_text("VAE: Automatic → pale-copy.safetensors").wait_for()
    page.get_by_label("Preferred VAE of small-sd").select_option("Automatic")
    page.get_by_text("VAE: Automatic → mini:").wait_for()
    page.locator("#bake [name=checkpoint]").select_option("small-sd")
    page.locator("#bake [name=name]").fill("baked.safetensors")
    page.get_by_role("button", name="Bake").click()
    page.locator("#models-checkpoints").get_by_text("baked.safetensors").wait_for()
    page.get_by_role("button", name="Extract VAE").click()
    page.locator("#models-vaes").get_by_text("baked.vae.safetensors").wait_for()


def test_a_mask_is_painted_and_the_rest_stays(page: Any) -> None:
    first = draw(page)
    page.get_by_role("button", name="Send to img2img").click()
    page.locator("#brush[width='32']").wait_for(state="attached")
    page.locator("#brush").scroll_into_view_if_needed()
    place = page.locator("#brush").bounding_box()
    x, y, side = place["x"], place["y"], place["width"]
    page.mouse.move(x + 0.2 * side, y + 0.2 * side)
    page.mouse.down()
    page.mouse.move(x + 0.3 * side, y + 0.2 * side, steps=3)
    page.mouse.up()
    page.get_by_label("Mask blur").fill("0")
    before, after = opened(first), opened(draw(page, **{"Denoising strength": 1}))
    assert before.tobytes() != after.tobytes()
    assert before.crop((20, 20, 32, 32)).tobytes() == after.crop((20, 20, 32, 32)).tobytes()


def test_two_tabs_at_once_both_get_their_picture(page: Any, address: str) -> None:
    other = page.context.browser.new_page(locale="en")
    other.goto(address)
    other.get_by_text("VAE: Automatic → mini").wait_for()
    other.get_by_label("Prompt", exact=True).fill("a blue cat")
    other.get_by_label("Sampling steps").fill("20")
    other.get_by_label("Prompt", exact=True).press("Control+Enter")
    assert draw(page)
    other.locator("#gallery img").first.wait_for()
    other.close()


def test_every_word_on_the_page_stands_in_its_texts(browser: Any, address: str) -> None:
    """With every text in brackets, nothing that a person can read stands outside of them."""
    told = json.loads((TEXTS / "en.json").read_text("utf-8"))
    marked = json.dumps({key: f"⟦{text}⟧" for key, text in told.items()})
    page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en")
    page.route("**/texts/en.json", lambda route: route.fulfill(body=marked, content_type="application/json"))
    page.goto(address)
    page.locator("#gallery, #tab-settings").first.wait_for(state="attached")
    for name in ("txt2img", "img2img", "lab", "watch", "history", "models", "settings"):
        page.locator(f"#tab-{name}").click()
        page.wait_for_timeout(300)
        assert page.evaluate(UNMARKED) == []
    page.close()


UNMARKED = """() => {
  const outside = [];
  const own = (text) => text.trim() && !/^⟦[^]*⟧$/.test(text.trim());
  for (const one of document.querySelectorAll("body *")) {
    if (one.closest("[translate=no]") || ["SCRIPT", "STYLE"].includes(one.tagName)) continue;
    for (const node of one.childNodes) if (node.nodeType === 3 && own(node.data)) outside.push(node.data.trim());
    for (const name of ["title", "placeholder", "aria-label", "alt"]) {
      const text = one.getAttribute(name);
      if (text && own(text)) outside.push(`${name}: ${text}`);
    }
  }
  return outside;
}"""


def test_the_languages_have_the_same_texts_with_the_same_gaps() -> None:
    english, russian = (json.loads((TEXTS / f"{name}.json").read_text("utf-8")) for name in ("en", "ru"))
    russian.pop("reasons")
    assert list(english) == list(russian)
    for key in english:
        assert set(re.findall(r"{\w+}", english[key])) == set(re.findall(r"{\w+}", russian[key])), key
    used = "".join(path.read_text("utf-8") for path in TEXTS.parent.glob("*.*"))
    for key in english:
        stem = key.rpartition(".")[0]
        assert f'"{key}"' in used or f"{stem}.${{" in used or key == "language.name", key


def test_russian_is_chosen_kept_and_complete(page: Any) -> None:
    page.locator("#language").select_option("ru")
    page.get_by_role("button", name="Создать").wait_for()
    page.locator("#theme").select_option("dark")
    page.reload()
    page.get_by_text("VAE: Automatic → mini: это стандартный VAE семейства mini, и он есть на этом диске").wait_for()
    assert page.evaluate("document.documentElement.lang") == "ru"
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_every_control_has_a_name_and_tabs_go_by_arrows(page: Any) -> None:
    page.get_by_role("tab", name="txt2img").focus()
    for name in ("img2img", "VAE lab", "Watch", "History", "Models", "Settings"):
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
        page.wait_for_timeout(150)
        assert page.evaluate(NAMELESS) == []


NAMELESS = """() => [...document.querySelectorAll("main :is(input, select, textarea, button, img)")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.labels?.length || one.ariaLabel || one.alt || one.title || one.textContent.trim()))
  .map((one) => one.outerHTML)"""


def test_what_is_refused_is_told_beside_the_form(page: Any) -> None:
    page.get_by_label("Prompt", exact=True).fill("x")
    page.get_by_role("tab", name="img2img").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Choose a picture to begin with").wait_for()


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(page: Any, width: int, language: str) -> None:
    page.locator("#language").select_option(language)
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("txt2img", "img2img", "lab", "watch", "history", "models", "settings"):
        page.locator(f"#tab-{name}").click()
        if name == "models":
            page.locator("#models-vaes tbody tr").first.wait_for()
            page.locator("#models summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SIDEWAYS) == []


SIDEWAYS = """() => [...document.querySelectorAll("main .scroll")]
  .filter((one) => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1).map((one) => one.innerText)"""


def test_reasons_are_told_in_the_language_of_the_page(page: Any) -> None:
    page.locator("#language").select_option("ru")
    page.locator("#vae-line").click()
    page.get_by_text("предпочтение: для этого чекпойнта предпочтение не сохранено").wait_for()
    page.get_by_text("рядом с чекпойнтом: ни рядом с ним, ни в папке VAE нет small-sd.vae.safetensors").wait_for()
    page.locator("#wish").evaluate("form => { form.noValidate = true; }")
    page.locator("#wish [name=width]").fill("36")
    page.locator("#wish [name=height]").fill("64")
    page.locator("#generate").click()
    page.get_by_text("36×64 невозможно: стороны кратны 8; ближе всего 32×64").wait_for()
    page.locator("#tab-settings").click()
    page.locator("#set-auto_vae_precision").uncheck()
    page.locator("#apply").click()
    page.get_by_text("выключить нельзя: при переполнении VAE запускается снова в float32").wait_for()
    page.locator("#tab-watch").click()
    page.get_by_text("ход рисования ещё не записан").wait_for()


def test_a_config_of_a1111_is_imported_and_what_was_not_taken_is_told(page: Any, tmp_path: Path) -> None:
    config = {
        "sd_vae": "pale-copy.safetensors",
        "auto_vae_precision": False,
        "outdir_samples": "/x",
        "quicksettings_list": ["sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    page.get_by_role("tab", name="Settings").click()
    page.locator("#take-over").set_input_files(tmp_path / "config.json")
    page.get_by_text("Taken over: sd_vae, quicksettings_list").wait_for()
    page.get_by_text("auto_vae_precision: cannot be switched off").wait_for()
    page.get_by_text("CLIP_stop_at_last_layers: not an option here").wait_for()
    page.get_by_text("vaekit has nothing for 1 others: outdir_samples").wait_for()
    assert page.locator("#quick").get_by_label("SD VAE", exact=True).input_value() == "pale-copy.safetensors"
    page.get_by_text("VAE: pale-copy.safetensors → ").wait_for()
    (tmp_path / "config.json").write_text("{")
    page.locator("#take-over").set_input_files(tmp_path / "config.json")
    page.get_by_text("This is no config.json").wait_for()


def test_new_files_are_found_by_every_list_of_vaes(page: Any, models: Path) -> None:
    new = models / "vae" / "found-later.safetensors"
    new.write_bytes((models / "vae" / "pale-copy.safetensors").read_bytes())
    try:
        page.get_by_role("tab", name="VAE lab").click()
        assert "found-later.safetensors" not in page.locator("#lab-vaes").inner_text()
        page.locator("#lab-wish .again").click()
        page.locator("#lab-vaes option", has_text="found-later.safetensors").wait_for(state="attached")
        page.get_by_role("tab", name="Settings").click()
        assert page.locator("#options .again").count() == 2
    finally:
        new.unlink()


def test_a_picture_by_its_address_is_offered_where_the_server_fetches(
    page: Any,
) -> None:
    page.get_by_role("tab", name="img2img").click()
    assert not page.locator("#begin-url").is_visible()
    out = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(out, "PNG")
    allowed = json.dumps({"api": True, "device": "cpu", "allow_urls": True})
    page.route("**/cmd-flags", lambda route: route.fulfill(body=allowed, content_type="application/json"))
    page.route("**/api/v1/picture", lambda route: route.fulfill(body=out.getvalue(), content_type="image/png"))
    page.reload()
    page.get_by_text("VAE: Automatic → mini").wait_for()
    page.locator("#begin-url").fill("https://pictures.test/a.png")
    page.locator("#begin-fetch").click()
    page.locator("#brush[width='32']").wait_for(state="attached")
    assert draw(page)

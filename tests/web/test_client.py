"""A public client of A1111's API, unchanged."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed")
SMALL = {"width": 32, "height": 32, "steps": 2, "seed": 3}


@pytest.fixture
def api(address: str) -> Any:
    return webuiapi.WebUIApi(host="127.0.0.1", port=urlsplit(address).port)


def test_txt2img_and_png_info(api: Any) -> None:
    done = api.txt2img(prompt="a red apple", **SMALL)
    assert done.image.size == (32, 32) and done.info["seed"] == 3
    assert done.info["sd_vae_name"] == "mini" and done.info["sampler_name"] == "Euler a"
    assert api.png_info(done.image).info.startswith("a red apple")
    assert api.txt2img(prompt="a red apple", **SMALL).image.tobytes() == done.image.tobytes()
    other = api.txt2img(prompt="a red apple", override_settings={"sd_vae": "pale-copy.safetensors"}, **SMALL)
    assert other.image.tobytes() != done.image.tobytes()
    with pytest.raises(RuntimeError, match="restore_faces"):
        api.txt2img(restore_faces=True, **SMALL)


def test_img2img_and_inpainting_as_the_client_means_them(api: Any) -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    over = api.img2img(images=[picture], prompt="x", denoising_strength=0.5, **SMALL)
    assert over.image.size == (32, 32)
    assert over.info["not_used"]["image_cfg_scale"]
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 24, 24))
    done = api.img2img(images=[picture], mask_image=mask, mask_blur=0, prompt="x", **SMALL)
    assert done.image.size == (64, 64)  # the part around the mask is drawn, and put back
    drawn = done.image.convert("RGB")
    assert drawn.crop((32, 32, 64, 64)).tobytes() == picture.crop((32, 32, 64, 64)).tobytes()
    assert drawn.crop((8, 8, 24, 24)).tobytes() != picture.crop((8, 8, 24, 24)).tobytes()
    assert "Masked content: fill" in done.info["infotexts"][0] and "Only masked" in done.info["infotexts"][0]


def test_options_vaes_models_and_lists(api: Any) -> None:
    names = [one["model_name"] for one in api.get_sd_vae()]
    assert "pale-copy.safetensors" in names
    api.set_options({"sd_vae": "pale-copy.safetensors"})
    assert api.get_options()["sd_vae"] == "pale-copy.safetensors"
    assert api.util_get_current_model() == "small-sd"
    api.util_set_model("MINI-SD")
    assert api.util_get_current_model() == "mini-sd"
    assert "Euler a" in api.util_get_sampler_names() and "karras" in api.util_get_scheduler_names()
    assert api.get_upscalers() == api.get_loras() == api.get_hypernetworks() == api.get_prompt_styles() == []
    assert api.get_latent_upscale_modes() == [{"name": "Latent"}]
    assert api.get_memory()["ram"]["total"] > 0 and api.get_embeddings()["loaded"] == {}
    api.refresh_checkpoints()
    api.util_wait_for_ready(check_interval=0.1)


def test_progress_during_a_run_and_interrupt(api: Any) -> None:
    done: list[Any] = []
    drawing = threading.Thread(target=lambda: done.append(api.txt2img(prompt="x", **SMALL | {"steps": 150})))
    drawing.start()
    under_way: list[float] = []
    while len(under_way) < 3 and not done:
        share = api.get_progress()["progress"]
        under_way += [share] if 0 < share < 1 else []
    api.interrupt()
    drawing.join(60)
    assert len(under_way) == 3 and under_way == sorted(under_way)
    assert done[0].info["interrupted"] and done[0].image.size == (32, 32)

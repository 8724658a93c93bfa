"""The API by A1111's names: what it draws, which VAE it says it took, what it refuses, who is let in."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from vaekit.catalog import Preferences
from vaekit.engine.half import Half
from vaekit.errors import FamilyError, OptionError
from vaekit.web.app import create
from vaekit.web.desk import Desk, Progress
from vaekit.web.naming import without_folders
from vaekit.web.queue import Busy, Client
from vaekit.web.wire import Limits

DRAW = {"prompt": "a red apple", "steps": 2, "seed": 3, "width": 32, "height": 32, "sampler_name": "Euler"}


def draw(client: TestClient, **more: Any) -> tuple[bytes, dict[str, Any]]:
    """The picture's pixels, and info."""
    way = "img2img" if "init_images" in more else "txt2img"
    answer = client.post(f"/sdapi/v1/{way}", json=DRAW | more)
    assert answer.status_code == 200, answer.text
    (picture,) = answer.json()["images"]
    return opened(picture).tobytes(), json.loads(answer.json()["info"])


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def refused(client: TestClient, way: str = "txt2img", **wish: Any) -> str:
    answer = client.post(f"/sdapi/v1/{way}", json=DRAW | wish)
    assert answer.status_code == 422, answer.text
    return str(answer.json()["detail"])


def test_the_vae_of_the_options_draws_and_info_tells_which_and_why(client: TestClient) -> None:
    standard, told = draw(client)
    assert told["vae_resolution"]["source"] == "standard" and told["vae_resolution"]["choice"] == "Automatic"
    assert [one["rule"] for one in told["vae_resolution"]["passed_over"]] == ["asked", "preference", "beside", "baked"]
    assert client.post("/sdapi/v1/options", json={"sd_vae": "pale-copy.safetensors"}).status_code == 200
    pale, told = draw(client)
    assert told["sd_vae_name"] == "pale-copy.safetensors" and len(told["sd_vae_hash"]) == 10
    assert told["vae_resolution"]["source"] == "asked"
    assert pale != standard
    assert "VAE: pale-copy.safetensors" in told["infotexts"][0]
    client.post("/sdapi/v1/options", json={"sd_vae": "None"})
    assert draw(client)[0] == standard


def test_a_vae_for_one_request_is_restored_and_for_all_is_kept(client: TestClient) -> None:
    standard, _ = draw(client)
    override = {"sd_vae": "pale-copy.safetensors"}
    pale, told = draw(client, override_settings=override)
    assert told["vae_resolution"]["source"] == "asked" and pale != standard
    assert client.get("/sdapi/v1/options").json()["sd_vae"] == "Automatic"
    assert draw(client)[0] == standard
    draw(client, override_settings=override, override_settings_restore_afterwards=False)
    assert client.get("/sdapi/v1/options").json()["sd_vae"] == "pale-copy.safetensors"


def test_lists_have_the_names_that_options_take(client: TestClient) -> None:
    names = {one["model_name"] for one in client.get("/sdapi/v1/sd-vae").json()}
    assert {"pale-copy.safetensors", "mini", "mini-tiny"} <= names and "Automatic" not in names
    for name in ("pale-copy.safetensors", "mini"):
        assert client.post("/sdapi/v1/options", json={"sd_vae": name}).status_code == 200
        assert client.get("/api/v1/vae").json()["choice"] == name
    assert [one["model_name"] for one in client.get("/sdapi/v1/sd-models").json()] == ["mini-sd", "small-sd"]
    assert "Euler" in {one["name"] for one in client.get("/sdapi/v1/samplers").json()}
    labels = {one["label"] for one in client.get("/sdapi/v1/schedulers").json()}
    assert {"Automatic", "Karras"} <= labels
    assert client.get("/sdapi/v1/loras").json() == []
    ram = client.get("/sdapi/v1/memory").json()["ram"]
    assert ram["total"] > ram["free"] > 0


def test_refresh_finds_a_new_file(client: TestClient, models: Path) -> None:
    assert client.get("/sdapi/v1/sd-vae").status_code == 200
    new = models / "vae" / "new.safetensors"
    new.write_bytes((models / "vae" / "pale-copy.safetensors").read_bytes())
    try:
        assert client.post("/sdapi/v1/options", json={"sd_vae": "new.safetensors"}).status_code == 422
        assert client.post("/sdapi/v1/refresh-vae").status_code == 200
        assert client.post("/sdapi/v1/options", json={"sd_vae": "new.safetensors"}).status_code == 200
    finally:
        new.unlink()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sd_vae": "pale-copi.safetensors"}, "pale-copy"),
        ({"sd_vae": "/etc/passwd"}, "nothing|no VAE"),
        ({"sd_vae": "../small-sd"}, "nothing|no VAE"),
        ({"sd_model_checkpoint": "smal-sd"}, "small-sd"),
        ({"sd_model_checkpoint": "owner/name"}, "no checkpoint is called"),
        ({"sd_vea": "None"}, "did you mean sd_vae"),
        ({"auto_vae_precision": False}, "never left black"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(client: TestClient, values: dict[str, Any], told: str) -> None:
    before = client.get("/sdapi/v1/options").json()
    answer = client.post("/sdapi/v1/options", json=values)
    assert answer.status_code == 422
    assert any(one in answer.json()["detail"] for one in told.split("|")), answer.text
    assert client.get("/sdapi/v1/options").json() == before
    assert refused(client, override_settings=values)


def test_what_vaekit_has_not_is_refused_and_what_asks_for_nothing_is_not(client: TestClient) -> None:
    draw(client, styles=[], alwayson_scripts={}, script_name="", script_args=[], restore_faces=False, s_noise=1.0)
    assert "did you mean steps" in refused(client, stepz=3)
    assert refused(client, restore_faces=True).startswith("restore_faces")
    assert refused(client, alwayson_scripts={"controlnet": {}}).startswith("alwayson_scripts")
    assert "did you mean Euler" in refused(client, sampler_name="Eular")
    assert "150" in refused(client, steps=151)
    assert "2048" in refused(client, width=4096)
    assert "16" in refused(client, batch_size=4, n_iter=5)
    assert "multiples of 8" in refused(client, width=33)
    assert "did you mean /sdapi/v1/txt2img" in client.post("/sdapi/v1/txt2imgs", json={}).json()["detail"]
    assert client.get("/sdapi/v1/sd-vae").status_code == 200  # and the server goes on


def test_img2img_begins_with_the_picture_and_a_mask_keeps_the_rest(client: TestClient) -> None:
    picture = Image.new("RGB", (32, 32), "red")
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    answer = client.post(
        "/sdapi/v1/img2img",
        json=DRAW | {"init_images": [encoded(picture)], "mask": encoded(mask), "mask_blur": 0, "steps": 4},
    )
    drawn = opened(answer.json()["images"][0]).convert("RGB")
    assert drawn.crop((16, 0, 32, 32)).tobytes() == picture.crop((16, 0, 32, 32)).tobytes()
    assert drawn.crop((0, 0, 16, 32)).tobytes() != picture.crop((0, 0, 16, 32)).tobytes()
    weak, _ = draw(client, init_images=["data:image/png;base64," + encoded(picture)], denoising_strength=0.0)
    strong, _ = draw(client, init_images=[encoded(picture)], denoising_strength=1.0)
    assert weak != strong
    assert set(draw(client, init_images=[encoded(picture)], inpainting_fill=0)[1]["not_used"]) == {"inpainting_fill"}
    two = picture.copy()
    two.paste("blue", (8, 8, 24, 24))
    small = Image.new("L", (32, 32), 0)
    small.paste(255, (8, 8, 16, 16))
    masked = {"init_images": [encoded(two)], "mask": encoded(small), "mask_blur": 0}
    found = [draw(client, **masked, inpainting_fill=fill, inpaint_full_res=False)[0] for fill in range(4)]
    found.append(draw(client, **masked)[0])
    found.append(draw(client, **masked, inpainting_mask_invert=1)[0])
    assert len(set(found)) == 6
    assert "0 to 3" in refused(client, "img2img", **masked, inpainting_fill=4)
    assert "not fetched by URL" in refused(client, "img2img", init_images=["http://127.0.0.1/x.png"])
    assert "not base64" in refused(client, "img2img", init_images=["*"])
    assert refused(client, "img2img", init_images=[base64.b64encode(b"no picture").decode()])
    assert "one picture" in refused(client, "img2img", init_images=[])


def test_png_info_reads_what_was_drawn(client: TestClient) -> None:
    (picture,) = client.post("/sdapi/v1/txt2img", json=DRAW).json()["images"]
    told = client.post("/sdapi/v1/png-info", json={"image": picture}).json()
    assert told["parameters"]["Prompt"] == "a red apple" and told["parameters"]["Seed"] == "3"
    assert told["info"].startswith("a red apple")


def test_pictures_are_kept_on_the_disk_only_when_asked(client: TestClient, desk: Desk) -> None:
    draw(client)
    assert list(desk.outputs.glob("*.png")) == []
    _, told = draw(client, save_images=True)
    assert [path.name for path in desk.outputs.glob("*.png")] == told["files"]


# Every setting acts; those that refuse are in test_options


def test_preferences_go_first_where_the_choice_does_not_override_them(client: TestClient, models: Path) -> None:
    preferences = Preferences()
    preferences.set(models / "small-sd", "mini-spots")
    try:
        override: dict[str, Any] = {"sd_vae": "pale-copy.safetensors"}
        assert draw(client, override_settings=override)[1]["sd_vae_name"] == "pale-copy.safetensors"
        override["sd_vae_overrides_per_model_preferences"] = False
        assert draw(client, override_settings=override)[1]["vae_resolution"]["source"] == "preference"
    finally:
        preferences.forget(models / "small-sd")


def test_a_tiny_vae_decodes_and_encodes_where_it_is_set(client: TestClient) -> None:
    full, _ = draw(client)
    tiny, told = draw(client, override_settings={"sd_vae_decode_method": "TAESD"})
    assert tiny != full and "VAE Decoder: TAESD" in told["infotexts"][0]
    begin = {"init_images": [encoded(Image.new("RGB", (32, 32), "red"))], "denoising_strength": 0.2}
    full, _ = draw(client, **begin)
    tiny, told = draw(client, override_settings={"sd_vae_encode_method": "TAESD"}, **begin)
    assert tiny != full and "VAE Encoder: TAESD" in told["infotexts"][0]


def test_bounded_memory_encodes_and_decodes_in_strips_where_it_is_set(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    strips: list[str] = []
    real = Half._run_strips
    monkeypatch.setattr(Half, "_run_strips", lambda self, *a: (strips.append(self.direction), real(self, *a))[1])
    large: dict[str, Any] = {"width": 96, "height": 64}
    begin = {"init_images": [encoded(Image.new("RGB", (96, 64), "red"))], "denoising_strength": 0.2} | large
    for more, name in ((large, "decode"), (begin, "encode"), (begin, "decode")):
        full, _ = draw(client, **more)
        bounded = {f"sd_vae_{name}_method": "Bounded memory"}
        assert not strips and draw(client, override_settings=bounded, **more)[0] == full
        assert not strips  # half of what is free holds it in one piece
        wish = {"override_settings": bounded | {"vae_memory_budget": "18MiB"}} | more
        again, told = draw(client, **wish)
        assert strips.pop() == name and not strips
        assert all(abs(a - b) <= 2 for a, b in zip(full, again, strict=True))
        assert f"VAE {name.capitalize()}r: Bounded memory" in told["infotexts"][0]
        wish["override_settings"] = bounded | {"vae_memory_budget": "1KiB"}
        assert "the least that does is" in refused(client, "img2img" if "init_images" in more else "txt2img", **wish)
    draw(client, override_settings={"vae_memory_budget": "18MiB"}, **large)
    assert not strips
    bounded = {"sd_vae_decode_method": "Bounded memory", "vae_memory_budget": "18MiB"}
    assert "one piece only" in refused(client, override_settings=bounded, tiling=True, **large)


def test_the_cache_keeps_as_many_vaes_as_it_says(
    client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaekit.web import desk as room

    loaded: list[str] = []
    load = room.load_resolved

    def counting(resolution: Any, device: str) -> Any:
        loaded.append(resolution.name)
        return load(resolution, device)

    monkeypatch.setattr(room, "load_resolved", counting)
    for cache, expected in ((0, 3), (1, 0)):
        desk.store.change({"sd_vae_checkpoint_cache": cache})
        loaded.clear()
        for name in ("mini", "mini-pale", "mini"):
            draw(client, override_settings={"sd_vae": name})
        if cache:
            loaded.clear()
            for name in ("mini-pale", "mini"):
                draw(client, override_settings={"sd_vae": name})
        assert len(loaded) == expected


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, True),
        ({"live_previews_enable": False}, False),
        ({"show_progress_every_n_steps": -1}, False),
        ({"show_progress_every_n_steps": 3}, False),
    ],
)
def test_previews_come_when_they_are_on_and_due(desk: Desk, options: dict[str, Any], shown: bool) -> None:
    from vaekit.generate.settings import Settings

    seen = []
    wished = desk.store.read().changed(options)
    watch = desk._look

    def look(painter: Any, options: Any) -> Any:
        inner = watch(painter, options)

        def both(step: Any) -> None:
            inner(step)
            seen.append(desk.progress.picture is not None)

        return both

    desk._look = look  # type: ignore[method-assign]
    desk.submit(lambda: desk.draw(Settings("x", steps=2, size=(32, 32)), wished)).result()
    assert len(seen) == 2 and any(seen) == shown


def test_the_time_left_goes_by_the_steps_and_not_by_what_was_loaded_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("vaekit.web.desk.time.monotonic", lambda: now[0])
    progress = Progress("txt2img", count=2, step=1, steps=10, first=(1000.0, 0.05))
    assert progress.seconds_left == 0.0
    now[0], progress.step = 1004.0, 3
    assert progress.seconds_left == pytest.approx(2.0 * 17)
    progress.number, progress.step = 1, 10
    assert progress.seconds_left == 0.0


# The queue


def test_interrupt_gives_what_there_is_and_skip_goes_on(desk: Desk) -> None:
    from vaekit.generate.settings import Settings

    options = desk.store.read()
    watch = desk._look
    for stop, pictures in ((desk.interrupt, 1), (desk.skip, 2)):

        def look(painter: Any, options: Any, stop: Any = stop) -> Any:
            inner = watch(painter, options)

            def both(step: Any) -> None:
                if step.number == 2 and desk.progress.number == 0:
                    stop()
                inner(step)

            return both

        desk._look = look  # type: ignore[method-assign]
        done = desk.draw(Settings("x", steps=5, size=(32, 32), count=2), options)
        assert len(done.pictures) == pictures
        assert "Interrupted at step: 2" in done.texts[0]


def test_a_full_queue_says_429_and_a_cancelled_place_is_free(desk: Desk, client: TestClient) -> None:
    go = threading.Event()
    desk.queue.waiting = 2
    try:
        places: list[Future[Any]] = [desk.submit(go.wait, Client(machine)) for machine in "abc"]
        with pytest.raises(Busy):
            desk.submit(go.wait, Client("d"))
        assert client.post("/sdapi/v1/txt2img", json=DRAW).status_code == 429
        assert places[-1].cancel()
        order: list[int] = []
        places.append(desk.submit(lambda: order.append(1)))
    finally:
        go.set()
    places[-1].result(10)
    assert order == [1] and client.get("/sdapi/v1/progress").json()["progress"] == 0.0


def test_a_drawing_that_fails_leaves_the_server_drawing(client: TestClient, desk: Desk) -> None:
    def fail() -> None:
        raise FamilyError("no")

    with pytest.raises(FamilyError):
        desk.submit(fail).result()
    assert draw(client)[0]
    metrics = client.get("/metrics").text
    assert "vaekit_requests_failed_total 1\n" in metrics and "vaekit_requests_drawn_total 1\n" in metrics


def test_a_client_that_goes_away_frees_its_place(desk: Desk, app: FastAPI) -> None:
    go = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        running = desk.submit(go.wait)
        body = json.dumps(DRAW).encode()
        with socket.create_connection(listening.getsockname()) as client:
            head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            assert _comes(lambda: desk.pending == 2)
        assert _comes(lambda: desk.pending == 1)
        assert not running.done()
    finally:
        go.set()
        server.should_exit = True
        thread.join(30)
        listening.close()


def _comes(true: Callable[[], bool]) -> bool:
    """Whether it is so within some seconds."""
    return any(true() or time.sleep(0.1) for _ in range(200))


# Who is let in


def test_other_names_and_other_sites_are_turned_away(client: TestClient) -> None:
    assert client.get("/sdapi/v1/options", headers={"host": "evil.example"}).status_code == 403
    own = client.post("/sdapi/v1/interrupt", headers={"origin": "http://127.0.0.1"})
    other = client.post("/sdapi/v1/interrupt", headers={"origin": "http://evil.example"})
    fetched = client.post("/sdapi/v1/interrupt", headers={"sec-fetch-site": "cross-site"})
    assert (own.status_code, other.status_code, fetched.status_code) == (200, 403, 403)
    assert "access-control-allow-origin" not in own.headers
    assert "frame-ancestors 'none'" in client.get("/").headers["content-security-policy"]


def test_a_password_is_asked_for_everywhere_but_for_health(desk: Desk) -> None:
    client = TestClient(create(desk, api_auth="me:secret"), base_url="http://127.0.0.1")
    for path in ("/", "/sdapi/v1/options", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == 401
        assert client.get(path, auth=("me", "wrong")).status_code == 401
    assert client.get("/sdapi/v1/options", auth=("me", "secret")).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_too_much_is_413_whatever_the_header_says(desk: Desk) -> None:
    client = TestClient(create(desk, limits=Limits(body=1000)), base_url="http://127.0.0.1")
    assert client.post("/sdapi/v1/options", content=b"x" * 1001).status_code == 413
    assert client.post("/sdapi/v1/options", content=iter([b"x" * 600] * 2)).status_code == 413


def test_ready_means_that_a_drawing_could_begin(client: TestClient, desk: Desk, models: Path) -> None:
    assert client.get("/readyz").status_code == 200
    desk.store.change({"sd_vae": "gone.safetensors"})
    assert client.get("/readyz").status_code == 422
    with pytest.raises(OptionError):
        desk.resolution(desk.store.read())


def test_no_folder_of_this_machine_is_told(client: TestClient, desk: Desk, models: Path, tmp_path: Path) -> None:
    broken = models / "vae" / "broken.safetensors"
    broken.write_bytes(b"nothing")
    inside = [str(place) for place in (models, tmp_path, Path.home())]
    try:
        client.post("/sdapi/v1/refresh-vae")
        wishes = ["/etc/passwd", "broken.safetensors", "small-sd", "mini16"]
        told = [client.post("/sdapi/v1/options", json={"sd_vae": name}).text for name in wishes]
        told.append(client.post("/sdapi/v1/img2img", json=DRAW | {"init_images": ["bm90aGluZw=="]}).text)
        told += [client.post("/api/v1/inspect", json={"name": name}).text for name in ("small-sd", "mini")]
        told += [client.post("/api/v1/doctor", json={"vae": "pale-copy.safetensors"}).text]
        told.append(json.dumps(draw(client)[1]))
        for path in ("/api/v1/models", "/api/v1/vae", "/api/v1/trace", "/sdapi/v1/sd-vae", "/sdapi/v1/sd-models"):
            told.append(client.get(path).text)
        desk.store.path.write_text("{")
        told.append(client.get("/sdapi/v1/options").text)
    finally:
        broken.unlink()
    assert "broken.safetensors" in told[1] and "web.json" in told[-1]
    for text in told:
        assert not any(place in text for place in inside), text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/models/x.safetensors: broken", "X: broken"),
        ("/srv/models/vae/y.pt: broken", "vae/y.pt: broken"),
        ("see /opt/a/b/c.bin and /opt/d", "see c.bin and d"),
        ("https://example.org/a/b is away", "https://example.org/a/b is away"),
        ("512/8 cells, 3/4", "512/8 cells, 3/4"),
    ],
)
def test_names_stand_in_the_place_of_paths(text: str, told: str) -> None:
    names = {Path("/srv/models/x.safetensors"): "X"}
    assert without_folders(text, names, [Path("/srv/models")]) == told
    assert without_folders({"a": [text, 1, None]}, names, [Path("/srv/models")]) == {"a": [told, 1, None]}


def test_a_config_of_a1111_is_imported(client: TestClient) -> None:
    config = {"sd_vae": "gone.safetensors", "sd_vae_checkpoint_cache": 2, "outdir": "/x", "auto_vae_precision": False}
    told = client.post("/api/v1/import", json=config).json()
    assert told["taken"] == {"sd_vae_checkpoint_cache": 2} and told["ignored"] == ["outdir"]
    assert set(told["refused"]) == {"sd_vae", "auto_vae_precision"}
    assert client.get("/sdapi/v1/options").json()["sd_vae_checkpoint_cache"] == 2

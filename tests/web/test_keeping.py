"""What is kept of generations, what is done with models, and what is told meanwhile."""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from vaekit import load
from vaekit.latents import Latents
from vaekit.web.app import create
from vaekit.web.desk import Desk
from vaekit.web.errands import Errands
from vaekit.web.options import Store

DRAW = {"prompt": "a red apple", "steps": 3, "seed": 3, "width": 32, "height": 32, "sampler_name": "Euler"}


def draw(client: TestClient, **more: Any) -> bytes:
    answer = client.post("/sdapi/v1/txt2img", json=DRAW | more)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["images"][0])


def refused(answer: Any) -> str:
    assert answer.status_code == 422, answer.text
    return str(answer.json()["detail"])


def finished(client: TestClient, answer: Any) -> dict[str, Any]:
    """The errand, when it is over."""
    assert answer.status_code == 200, answer.text
    for _ in range(300):
        (one,) = [e for e in client.get("/api/v1/errands").json() if e["id"] == answer.json()["id"]]
        if one["state"] not in ("waiting", "running"):
            return dict(one)
        time.sleep(0.1)
    raise AssertionError("it does not end")


# History


def test_kept_latents_decode_to_the_same_picture_and_to_others(client: TestClient, tmp_path: Path) -> None:
    drawn = Image.open(io.BytesIO(draw(client)))
    (record,) = client.get("/api/v1/history").json()
    assert record["vae"] == "mini" and record["text"].startswith("a red apple") and not record["masked"]
    where = f"/api/v1/history/{record['id']}"
    answers = [client.post(f"{where}/decode", json={"vae": vae}) for vae in ("mini", "mini-pale")]
    again, other = (Image.open(io.BytesIO(answer.content)) for answer in answers)
    assert again.tobytes() == drawn.tobytes() != other.tobytes()
    (tmp_path / "z.safetensors").write_bytes(client.get(f"{where}/latents").content)
    assert Latents.load(tmp_path / "z.safetensors").size == (32, 32)
    assert client.get(f"{where}/picture").headers["content-type"] == "image/jpeg"
    assert client.delete(where).json() == {"forgotten": 1}
    assert "nothing is kept" in refused(client.get(f"{where}/latents"))
    assert client.get("/api/v1/history/..%2Fweb/latents").status_code == 404


def test_the_history_is_as_long_as_the_option_says(client: TestClient, desk: Desk) -> None:
    desk.store.change({"latent_history": 2})
    for seed in (1, 2, 3):
        draw(client, seed=seed)
    assert sorted(one["seed"] for one in client.get("/api/v1/history").json()) == [2, 3]
    desk.store.change({"latent_history": 0})
    draw(client, seed=4)
    assert client.delete("/api/v1/history").json() == {"forgotten": 2}
    assert not list(desk.history.folder.glob("*.jpg"))


# Steps


def test_the_steps_of_the_last_generation_can_be_looked_at(client: TestClient, desk: Desk) -> None:
    assert "no generation was traced" in refused(client.get("/api/v1/trace"))
    drawn = Image.open(io.BytesIO(draw(client, batch_size=2)))
    told = client.get("/api/v1/trace").json()
    assert [one["step"] for one in told["steps"]] == [0, 1, 2, 3] and told["vae"] == "mini"
    assert told["steps"][0]["sigma"] > told["steps"][-1]["sigma"] == 0
    where = f"/api/v1/trace/{told['mark']}"
    last = client.get(f"{where}/3?look=estimate&vae=mini")
    assert Image.open(io.BytesIO(last.content)).tobytes() == drawn.tobytes()
    looks = [client.get(f"{where}/1?look={look}").content for look in ("latents", "estimate", "channels")]
    assert len(set(looks)) == 3
    assert "counted from 0" in refused(client.get(f"{where}/4"))
    draw(client)
    assert "taken its place" in refused(client.get(f"{where}/0"))
    desk.store.change({"trace_last_generation": False})
    mark = client.get("/api/v1/trace").json()["mark"]
    draw(client)
    assert client.get("/api/v1/trace").json()["mark"] == mark


def test_events_tell_progress_and_previews(address: str, desk: Desk) -> None:
    kinds: list[str] = []
    with httpx2.Client(base_url=address, timeout=60) as client, client.stream("GET", "/api/v1/events") as events:
        options = desk.store.read()
        from vaekit.generate.settings import Settings

        future = desk.submit(lambda: desk.draw(Settings("x", steps=150, size=(32, 32)), options))
        for line in events.iter_lines():
            kinds += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            if line.startswith("data: ") and "preview" in kinds:
                desk.interrupt()
                break
        future.result(60)
    assert set(kinds) == {"progress", "preview"}


# Models


def test_models_tell_what_is_here_and_preferences_are_stored(client: TestClient) -> None:
    models = {one["name"]: one for one in client.get("/api/v1/models").json()["models"]}
    assert models["small-sd"]["kind"] == "checkpoint" and models["small-sd"]["family"] == ["mini"]
    wish = {"checkpoint": "small-sd", "vae": "mini-pale"}
    assert client.post("/api/v1/preference", json=wish).json()["source"] == "preference"
    assert {one["name"]: one["preferred"] for one in client.get("/api/v1/models").json()["models"]}["small-sd"]
    assert client.get("/api/v1/vae").json()["source"] == "preference"
    client.post("/api/v1/preference", json=wish | {"vae": "Automatic"})
    assert client.get("/api/v1/vae").json()["source"] == "standard"
    assert "mini16" in refused(client.post("/api/v1/preference", json=wish | {"vae": "mini16"}))
    assert "no VAE is called" in refused(client.post("/api/v1/preference", json=wish | {"vae": "/etc/passwd"}))
    assert client.post("/api/v1/inspect", json={"name": "mini"}).json()[0]["families"] == ["mini"]


def test_what_was_baked_is_extracted_again(client: TestClient, desk: Desk) -> None:
    wish = {"checkpoint": "small-sd", "vae": "mini-pale", "name": "mine.safetensors"}
    one = finished(client, client.post("/api/v1/bake", json=wish))
    assert one["state"] == "done", one
    assert "exists already" in refused(client.post("/api/v1/bake", json=wish))
    assert finished(client, client.post("/api/v1/extract", json={"checkpoint": "mine.safetensors"}))["state"] == "done"
    a, b = (load(name, device="cpu", family="mini") for name in ("mini-pale", str(desk.made / "mine.vae.safetensors")))
    assert a.fingerprint.vae == b.fingerprint.vae
    client.post("/api/v1/fingerprints")
    models = {one["name"]: one for one in client.get("/api/v1/models").json()["models"]}
    assert "mini-pale" in models["mine.safetensors"]["same_as"]


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", ".x.safetensors", "x.ckpt", "a/b.safetensors", ""]
)
def test_new_files_go_nowhere_else(client: TestClient, name: str) -> None:
    wish = {"checkpoint": "small-sd", "vae": "mini", "name": name}
    assert "no name for a file" in refused(client.post("/api/v1/bake", json=wish))


def test_downloads_take_names_and_never_addresses(client: TestClient) -> None:
    for target in (
        "http://127.0.0.1/x.safetensors",
        "https://example.org/x.safetensors",
        "file:///etc/passwd",
        "nothing",
    ):
        assert refused(client.post("/api/v1/pull", json={"target": target}))
    here = finished(client, client.post("/api/v1/pull", json={"target": "mini"}))
    assert here["state"] == "done"


def test_an_errand_can_be_stopped_and_a_failed_one_tells_why() -> None:
    errands = Errands(lambda: None)

    def endless(report: Any) -> Path:
        while True:
            report(1, None)
            time.sleep(0.01)

    def wrong(report: Any) -> Path:
        raise RuntimeError("secret")

    first, second = errands.begin("pull", "x", endless), errands.begin("pull", "y", wrong)
    errands.stop(first.id)
    for _ in range(500):
        if second.state == "failed":
            break
        time.sleep(0.01)
    assert (first.state, second.state) == ("stopped", "failed") and "secret" not in second.told
    errands.close()


# Pickles, passwords, other sites, logs


@pytest.fixture
def with_pickle(models: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    torch.save({"state_dict": dict(load("mini", device="cpu")._state)}, folder / "vae" / "old.pt")
    return folder


def test_no_pickle_is_loaded_because_a_request_names_it(with_pickle: Path, tmp_path: Path) -> None:
    for allowed in (False, True):
        store = Store(tmp_path / f"{allowed}.json")
        store.change({"sd_model_checkpoint": "small-sd"})
        desk = Desk(store, tmp_path / "outputs", [with_pickle], "cpu", pickles=allowed)
        client = TestClient(create(desk), base_url="http://127.0.0.1")
        answer = client.post("/sdapi/v1/txt2img", json=DRAW | {"override_settings": {"sd_vae": "old.pt"}})
        encoded = client.post("/api/v1/doctor", json={"vae": "old.pt"})
        if allowed:
            assert answer.status_code == 200 and encoded.status_code == 200
        else:
            assert "--allow-pickles" in refused(answer) and "--allow-pickles" in refused(encoded)
            assert "--allow-pickles" in refused(client.post("/sdapi/v1/options", json={"sd_vae": "old.pt"}))
        desk.close()


def test_page_and_api_have_passwords_of_their_own(desk: Desk) -> None:
    client = TestClient(create(desk, api_auth="me:api", ui_auth="me:page"), base_url="http://127.0.0.1")

    def status(path: str, password: str) -> int:
        return client.get(path, auth=("me", password)).status_code

    assert (status("/", "page"), status("/", "api"), status("/", "x")) == (200, 401, 401)
    found = [status("/sdapi/v1/options", password) for password in ("page", "api", "x")]
    assert found == [200, 200, 401]
    alone = TestClient(create(desk, ui_auth="me:page"), base_url="http://127.0.0.1")
    assert alone.get("/sdapi/v1/options").status_code == 401


def test_another_site_is_let_in_only_where_it_was_named(desk: Desk) -> None:
    client = TestClient(create(desk, origins=("https://mine.example",)), base_url="http://127.0.0.1")
    mine = {"origin": "https://mine.example", "sec-fetch-site": "cross-site"}
    other = mine | {"origin": "https://evil.example"}
    answer = client.post("/sdapi/v1/interrupt", headers=mine)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://mine.example"
    assert client.options("/sdapi/v1/txt2img", headers=mine).status_code == 204
    for method in ("get", "post"):
        answer = getattr(client, method)("/sdapi/v1/options", headers=other)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_logs_hold_no_prompts(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    draw(client, prompt="a very secret apple", negative_prompt="hidden pears")
    client.post("/sdapi/v1/txt2img", json=DRAW | {"prompt": "a very secret apple", "steps": 0})
    assert "secret" not in caplog.text and "hidden" not in caplog.text
    assert json.dumps(client.get("/metrics").text).count("secret") == 0

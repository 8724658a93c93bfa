"""vaekit's own routes: encode, decode, compare, doctor."""

from __future__ import annotations

import base64
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from vaekit import assets, load
from vaekit.latents import Latents
from vaekit.web.app import create
from vaekit.web.desk import Desk
from vaekit.web.wire import Limits


@pytest.fixture(scope="module")
def photo() -> str:
    out = io.BytesIO()
    with Image.open(assets.photo()) as picture:
        picture.convert("RGB").resize((64, 48)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def post(client: TestClient, what: str, **wish: Any) -> Any:
    answer = client.post(f"/api/v1/{what}", json=wish)
    assert answer.status_code == 200, answer.text
    return answer


def refused(client: TestClient, what: str, **wish: Any) -> str:
    answer = client.post(f"/api/v1/{what}", json=wish)
    assert answer.status_code == 422
    return str(answer.json()["detail"])


def test_latents_come_as_the_library_makes_them_and_decode_again(
    client: TestClient, photo: str, tmp_path: Path
) -> None:
    content = post(client, "encode", image=photo, vae="mini").content
    path = tmp_path / "z.safetensors"
    path.write_bytes(content)
    latents = Latents.load(path)
    assert latents.size == (64, 48) and latents.family.name == "mini"
    decoded = post(client, "decode", latents=base64.b64encode(content).decode(), vae="mini-pale")
    expected = load("mini-pale", device="cpu").decode(latents)
    assert isinstance(expected, Image.Image)
    assert Image.open(io.BytesIO(decoded.content)).tobytes() == expected.tobytes()


def test_vaes_side_by_side_with_measures_and_channels(client: TestClient, photo: str) -> None:
    told = post(client, "compare", image=photo, vaes=["mini", "pale-copy.safetensors"]).json()
    first, second = told["results"]
    assert (first["vae"], second["vae"]) == ("mini", "pale-copy.safetensors")
    assert first["psnr"] > second["psnr"] and first["image"] != second["image"]
    assert told["latents"]["vae"] == "mini" and told["latents"]["family"] == "mini"
    channels = told["latents"]["channels"]
    assert len(channels) == 4 and Image.open(io.BytesIO(base64.b64decode(channels[0]["image"]))).size == (8, 6)
    assert channels[0]["low"] < channels[0]["mean"] < channels[0]["high"]


def test_the_doctor_tells_what_a_picture_has(client: TestClient, photo: str) -> None:
    black = io.BytesIO()
    Image.new("RGB", (128, 128)).save(black, "PNG")
    told = post(client, "doctor", image=base64.b64encode(black.getvalue()).decode()).json()
    assert told["findings"] and told["findings"] != post(client, "doctor", image=photo).json()["findings"]


def test_what_is_wrong_is_refused(client: TestClient, desk: Desk, photo: str) -> None:
    assert "mini" in refused(client, "encode", image=photo, vae="minni")
    assert "no VAE is called" in refused(client, "compare", image=photo, vaes=["/etc/passwd"])
    assert "not base64" in refused(client, "doctor", image="*")
    unsafe = base64.b64encode(pickle.dumps({"latents": 1})).decode()
    assert "not a safetensors file" in refused(client, "decode", latents=unsafe)
    app: FastAPI = create(desk, limits=Limits(side=32))
    assert "64×48" in refused(TestClient(app, base_url="http://127.0.0.1"), "encode", image=photo)

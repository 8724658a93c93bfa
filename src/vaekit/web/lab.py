"""vaekit's own routes under /api/v1: encode, decode, compare, doctor."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vaekit import images
from vaekit.errors import LatentsError, OptionError, PictureError
from vaekit.latents import Latents, draw
from vaekit.quality.measures import in_words
from vaekit.vae import VAE
from vaekit.web.desk import Desk
from vaekit.web.wire import Limits, encoded, picture_bytes

T = TypeVar("T")
SHEET_SIDE = 256
"""About how many pixels wide a channel is shown."""


class Wish(BaseModel):
    """vae: a name out of /sdapi/v1/sd-vae."""

    model_config = ConfigDict(extra="forbid")


class Encode(Wish):
    """image: base64."""

    image: str
    vae: str = "mini"


class Decode(Wish):
    """latents: a safetensors file, base64; decoded as of the family that it tells."""

    latents: str
    vae: str = "mini"


class Compare(Wish):
    """image: base64; vaes: up to eight names."""

    image: str
    vaes: list[str] = Field(min_length=1, max_length=8)


class Doctor(Wish):
    """image: base64."""

    image: str


def add(app: FastAPI, desk: Desk, limits: Limits) -> None:
    """The routes; what they do waits for its turn among the drawings."""

    async def turn(work: Callable[[Path], T]) -> T:
        def inside() -> T:
            with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
                return work(Path(folder))

        return await asyncio.wrap_future(desk.submit(inside))

    @app.post("/api/v1/encode", response_class=Response)
    async def encode(wish: Encode) -> Response:
        """The latents as a safetensors file."""

        def work(folder: Path) -> bytes:
            latents = desk.named(wish.vae).encode(_picture(wish.image, folder, limits))
            latents.save(folder / "latents.safetensors")
            return (folder / "latents.safetensors").read_bytes()

        return Response(await turn(work), media_type="application/octet-stream")

    @app.post("/api/v1/decode", response_class=Response)
    async def decode(wish: Decode) -> Response:
        """The picture as a PNG, the first of a batch."""

        def work(folder: Path) -> bytes:
            latents = _latents(wish.latents, folder, limits)
            out = io.BytesIO()
            _single(desk.named(wish.vae), latents).save(out, "PNG")
            return out.getvalue()

        return Response(await turn(work), media_type="image/png")

    @app.post("/api/v1/compare")
    async def compare(wish: Compare) -> dict[str, Any]:
        """There and back through each VAE: pictures, measures, and the channels of the first one's latents."""
        return await turn(lambda folder: _compared(desk, wish, _picture(wish.image, folder, limits)))

    @app.post("/api/v1/doctor")
    async def doctor(wish: Doctor) -> dict[str, Any]:
        """Which of the known faults of decoded pictures one has."""
        from vaekit.doctor.examine import examine_picture

        return await turn(lambda folder: examine_picture(_picture(wish.image, folder, limits)).to_dict())


def _compared(desk: Desk, wish: Compare, picture: Image.Image) -> dict[str, Any]:
    from vaekit.quality.compare import compare

    vaes: dict[str, VAE] = {name: desk.named(name) for name in wish.vaes}
    found = compare({"picture": picture}, vaes, with_charts=False)
    (one,), (gallery,) = found.compared, found.galleries
    looks = {trial.vae: in_words(trial.row()) for trial in one.trials}
    results = [
        {**trial.to_dict(), "look": looks[trial.vae], "image": encoded(gallery.results[trial.vae])}
        for trial in one.trials
    ]
    first = vaes[one.trials[0].encoder or one.trials[0].vae]
    latents = first.encode(picture)
    zoom = max(1, SHEET_SIDE // max(latents.tensor.shape[3], 1))
    return {
        "original": encoded(gallery.reference),
        "results": results,
        "channels": encoded(draw.sheet(latents, palette="diverging", zoom=zoom)),
        "channels_of": first.name,
        "vaes": [asdict(contender) for contender in found.contenders],
    }


def _picture(text: str, folder: Path, limits: Limits) -> Image.Image:
    path = folder / "picture"
    path.write_bytes(picture_bytes(text, "image"))
    picture = images.to_pil(images.read(path, alpha="white").pixels)[0]
    if max(picture.size) > limits.side:
        raise PictureError(f"{picture.width}×{picture.height} is more than this server takes: {limits.side} a side")
    return picture


def _latents(text: str, folder: Path, limits: Limits) -> Latents:
    """Out of a safetensors file alone, whatever else there are: a request makes nothing be unpickled."""
    content = picture_bytes(text, "latents")
    if content[8:9] != b"{":
        raise LatentsError("latents: not a safetensors file")
    path = folder / "latents.safetensors"
    path.write_bytes(content)
    latents = Latents.load(path)
    if max(latents.size) > limits.side:
        raise OptionError(f"{latents.size[0]}×{latents.size[1]} is more than this server takes: {limits.side} a side")
    return latents


def _single(vae: VAE, latents: Latents) -> Image.Image:
    picture = vae.decode(latents[0])
    assert isinstance(picture, Image.Image)
    return picture

"""Routes of the VAE lab: encode, decode, compare, channels, doctor."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vaekit import images
from vaekit.errors import LatentsError, OptionError, PictureError
from vaekit.latents import Latents, draw
from vaekit.quality.measures import in_words
from vaekit.vae import VAE
from vaekit.web.desk import Desk
from vaekit.web.fetching import Fetcher
from vaekit.web.turns import turn
from vaekit.web.watching import decoded
from vaekit.web.wire import Limits, encoded, picture_bytes, written

T = TypeVar("T")


def _example(**wish: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [wish]})


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNYtnc9AASSAiADvRUYAAAAAElFTkSuQmCC"
"""A picture for the examples: one pixel, PNG."""


class Encode(BaseModel):
    """image: base64, or a URL where the server fetches them. vae: a name out of /sdapi/v1/sd-vae."""

    model_config = _example(image=PIXEL, vae="mini")
    image: str
    vae: str = "mini"


class Decode(BaseModel):
    """latents: a safetensors file, base64; decoded as of the family that it tells."""

    model_config = _example(latents="…", vae="mini")
    latents: str
    vae: str = "mini"


class Channels(BaseModel):
    """latents: a safetensors file, base64."""

    model_config = _example(latents="…")
    latents: str


class Picture(BaseModel):
    """image: base64, or a URL where the server fetches them."""

    model_config = _example(image=PIXEL)
    image: str


class Compare(BaseModel):
    """image: base64, or a URL where the server fetches them; vaes: up to eight names."""

    model_config = _example(image=PIXEL, vaes=["mini", "mini-pale"])
    image: str
    vaes: list[str] = Field(min_length=1, max_length=8)


class Doctor(BaseModel):
    """One of both. image: base64, or a URL where the server fetches them; vae: a name."""

    model_config = _example(image=PIXEL)
    image: str | None = None
    vae: str | None = None


def add(app: FastAPI, desk: Desk, limits: Limits, fetcher: Fetcher) -> None:
    """The routes; what they do waits for its turn among the drawings."""

    _picture_route(app, limits, fetcher)

    async def with_folder(request: Request, work: Callable[[Path], T]) -> T:
        def inside() -> T:
            with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
                return work(Path(folder))

        return await turn(desk, request, inside)

    @app.post("/api/v1/encode", response_class=Response, responses=_bytes("application/octet-stream"))
    async def encode(wish: Encode, request: Request) -> Response:
        """The latents as a safetensors file."""
        wish = await fetcher.fetched(wish, "image")

        def work(folder: Path) -> bytes:
            latents = desk.named(wish.vae).encode(_picture(wish.image, folder, limits))
            latents.save(folder / "latents.safetensors")
            return (folder / "latents.safetensors").read_bytes()

        return Response(await with_folder(request, work), media_type="application/octet-stream")

    @app.post("/api/v1/decode", response_class=Response, responses=_bytes("image/png"))
    async def decode(wish: Decode, request: Request) -> Response:
        """The picture as a PNG, the first of a batch."""

        def work(folder: Path) -> bytes:
            out = io.BytesIO()
            decoded(desk.named(wish.vae), _latents(wish.latents, folder, limits)).save(out, "PNG")
            return out.getvalue()

        return Response(await with_folder(request, work), media_type="image/png")

    @app.post("/api/v1/channels")
    async def channels(wish: Channels, request: Request) -> dict[str, Any]:
        """Each channel of latents as a picture of a pixel per cell, blue negative, red positive, and its statistics."""
        return await with_folder(request, lambda folder: _channels(_latents(wish.latents, folder, limits)))

    @app.post("/api/v1/compare")
    async def compare(wish: Compare, request: Request) -> dict[str, Any]:
        """There and back through each VAE: pictures, measures, and the channels of the first one's latents."""
        wish = await fetcher.fetched(wish, "image")
        return await with_folder(request, lambda folder: _compared(desk, wish, _picture(wish.image, folder, limits)))

    @app.post("/api/v1/doctor")
    async def doctor(wish: Doctor, request: Request) -> dict[str, Any]:
        """Which of the known faults a decoded picture or a VAE has."""
        from vaekit.doctor.examine import examine, examine_picture

        if (wish.image is None) == (wish.vae is None):
            raise OptionError("give an image or a vae")
        wish = await fetcher.fetched(wish, "image")

        def work(folder: Path) -> dict[str, Any]:
            if wish.image is not None:
                return examine_picture(_picture(wish.image, folder, limits)).to_dict()
            path, decoder = desk.place(str(wish.vae))
            told: dict[str, Any] = desk.told(examine(path, decoder=decoder).to_dict())
            return told | {"source": wish.vae}

        return await with_folder(request, work)


def _picture_route(app: FastAPI, limits: Limits, fetcher: Fetcher) -> None:
    @app.post("/api/v1/picture", response_class=Response, responses=_bytes("image/png"))
    async def picture(wish: Picture) -> Response:
        """A picture as the server reads it, upright and as a PNG: for pages that begin with one by its URL."""
        wish = await fetcher.fetched(wish, "image")

        def work() -> bytes:
            with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
                out = io.BytesIO()
                _picture(wish.image, Path(folder), limits).save(out, "PNG")
                return out.getvalue()

        return Response(await asyncio.to_thread(work), media_type="image/png")


def _bytes(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}}}}}


def _channels(latents: Latents) -> dict[str, Any]:
    pictures = draw.channels(latents, palette="diverging", zoom=1)
    told = []
    for picture, values in zip(pictures, latents.tensor[0].float(), strict=True):
        numbers = {"low": values.min(), "high": values.max(), "mean": values.mean(), "std": values.std(correction=0)}
        told.append({"image": encoded(picture)} | {name: round(float(number), 3) for name, number in numbers.items()})
    return {
        "family": latents.family.name,
        "size": list(latents.size),
        "cells": list(pictures[0].size),
        "channels": told,
    }


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
    return {
        "original": encoded(gallery.reference),
        "results": results,
        "latents": _channels(first.encode(picture)) | {"vae": first.name},
        "vaes": [asdict(contender) for contender in found.contenders],
    }


def _picture(text: str, folder: Path, limits: Limits) -> Image.Image:
    path = written(text, folder / "image", limits)
    width, height = images.size_of(path)
    if max(width, height) > limits.side:
        raise PictureError(f"{width}×{height} is more than this server takes: {limits.side} a side")
    return images.to_pil(images.read(path, alpha="white").pixels)[0]


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

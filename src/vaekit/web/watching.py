"""Routes to watch by: events while something is drawn, the steps of the last generation, the history."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict

from vaekit.errors import OptionError
from vaekit.generate.trace import TraceFile, pictures
from vaekit.latents import Latents, draw
from vaekit.vae import VAE
from vaekit.web.desk import Desk
from vaekit.web.queue import Busy
from vaekit.web.turns import turn
from vaekit.web.wire import encoded

OFTEN, QUIET = 0.2, 15.0
"""Seconds between two looks at what is under way, and after which a line is sent that says nothing."""
LISTENERS = 32
Look = Literal["latents", "estimate", "channels"]


class Again(BaseModel):
    """vae: a name out of /sdapi/v1/sd-vae."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"vae": "mini-mse"}]})
    vae: str


def state(desk: Desk) -> dict[str, Any]:
    """What is under way, in plain values."""
    now = desk.progress
    return {
        "job": now.job,
        "progress": round(now.share, 4),
        "eta": round(now.seconds_left, 1),
        "step": now.step if now.job else 0,
        "steps": now.steps if now.job else 0,
        "number": now.number if now.job else 0,
        "count": now.count if now.job else 0,
        "pending": desk.pending,
    }


def add(app: FastAPI, desk: Desk) -> None:
    _events(app, desk)
    _trace(app, desk)
    _history(app, desk)


def _events(app: FastAPI, desk: Desk) -> None:
    listening = 0

    @app.get(
        "/api/v1/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {"example": 'event: progress\ndata: {"job": "txt2img", "step": 3}'}}}
        },
    )
    async def events() -> StreamingResponse:
        """Server-sent events: `progress` with numbers, `preview` with a picture (base64 of a PNG), as they change."""
        if listening >= LISTENERS:
            raise Busy(f"{LISTENERS} listen already")
        return StreamingResponse(stream(), media_type="text/event-stream")

    async def stream() -> AsyncIterator[str]:
        nonlocal listening
        listening += 1
        told: Any = None
        shown: Any = None
        quiet = 0.0
        try:
            while not desk.closed:
                now, picture = state(desk), desk.progress.picture
                quiet += OFTEN
                if now != told:
                    yield f"event: progress\ndata: {json.dumps(now)}\n\n"
                    told, quiet = now, 0.0
                if picture is not None and picture is not shown:
                    text = await asyncio.to_thread(encoded, picture)
                    yield f"event: preview\ndata: {json.dumps({'image': text})}\n\n"
                    shown, quiet = picture, 0.0
                if quiet >= QUIET:
                    yield ": still here\n\n"
                    quiet = 0.0
                await asyncio.sleep(OFTEN)
        finally:
            listening -= 1


def _trace(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/v1/trace")
    def trace() -> dict[str, Any]:
        """The steps of the last generation: each one's pass and noise. mark: changes with the generation."""
        mark, found = desk.trace.get()
        steps = [
            {"pass": name, "step": number, "sigma": round(float(sigma), 4)}
            for name, traced in found.passes.items()
            for number, sigma in enumerate(traced.sigmas)
        ]
        vae = desk.told(found.vae)
        return {"mark": mark, "family": found.family.name, "vae": vae, "text": found.text, "steps": steps}

    @app.get("/api/v1/trace/file", response_class=FileResponse)
    def trace_file() -> FileResponse:
        """The trace as a file for `vaekit latents trace`."""
        desk.trace.get()
        return FileResponse(desk.trace.path, filename="vaekit.trace.safetensors")

    @app.get("/api/v1/trace/{mark}/{index}", response_class=Response)
    async def step(mark: str, index: int, request: Request, look: Look = "estimate", vae: str = "linear") -> Response:
        """One step as a PNG. vae: a name, or "linear" for the family's factors, which need no network."""

        def work() -> bytes:
            now, found = desk.trace.get()
            if mark != now:
                raise OptionError("another generation has taken its place")
            return _png(_looked(found, index, look, None if vae == "linear" else desk.named(vae)))

        return Response(await turn(desk, request, work), media_type="image/png")


def _looked(found: TraceFile, index: int, look: Look, vae: VAE | None) -> Image.Image:
    places = [(name, number) for name, traced in found.passes.items() for number in range(len(traced.sigmas))]
    if not 0 <= index < len(places):
        raise OptionError(f"there is no step {index} among {len(places)}; they are counted from 0")
    name, number = places[index]
    if look == "channels":
        latents = found.of(found.passes[name].latents, number, 0)
        zoom = max(1, 128 // max(latents.tensor.shape[2:]))
        return draw.sheet(latents, palette="diverging", zoom=zoom)
    pair = next(pictures(found, name, vae, 0, [number]))
    return pair[0 if look == "latents" else 1]


def _history(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/v1/history")
    def history() -> list[dict[str, Any]]:
        """The latest generations whose latents are kept, the newest first."""
        return [record.to_dict() for record in desk.history.records()]

    @app.get("/api/v1/history/{name}/picture", response_class=FileResponse)
    def small(name: str) -> FileResponse:
        """A small picture of it, JPEG."""
        return FileResponse(desk.history.file(name, ".jpg"))

    @app.get("/api/v1/history/{name}/latents", response_class=FileResponse)
    def latents(name: str) -> FileResponse:
        """Its latents as a safetensors file."""
        return FileResponse(desk.history.file(name, ".safetensors"), filename=f"{name}.latents.safetensors")

    @app.post("/api/v1/history/{name}/decode", response_class=Response)
    async def decode(name: str, wish: Again, request: Request) -> Response:
        """Its latents decoded by a VAE, PNG. A masked one comes without the picture that it was laid over."""

        def work() -> bytes:
            return _png(decoded(desk.named(wish.vae), desk.history.latents(name)))

        return Response(await turn(desk, request, work), media_type="image/png")

    @app.delete("/api/v1/history/{name}")
    def forget(name: str) -> dict[str, int]:
        """Delete one."""
        return {"forgotten": desk.history.forget(name)}

    @app.delete("/api/v1/history")
    def forget_all() -> dict[str, int]:
        """Delete all."""
        return {"forgotten": desk.history.forget()}


def decoded(vae: VAE, latents: Latents) -> Image.Image:
    """The first picture of a batch."""
    picture = vae.decode(latents[0])
    assert isinstance(picture, Image.Image)
    return picture


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()

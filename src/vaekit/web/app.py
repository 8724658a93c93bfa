"""The routes: A1111's under /sdapi/v1, vaekit's own, and the page."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict

from vaekit import assets
from vaekit.errors import OptionError, VaekitError
from vaekit.generate import infotext
from vaekit.generate.hashes import short_hash
from vaekit.generate.samplers import AUTOMATIC, samplers, schedules
from vaekit.generate.settings import Settings
from vaekit.version import version
from vaekit.web import lab, shelf, watching, wire
from vaekit.web.desk import Desk, Done
from vaekit.web.errands import Errands
from vaekit.web.fetching import Fetcher
from vaekit.web.guard import LOOPBACK, Guard, Rules
from vaekit.web.options import Options, unknown
from vaekit.web.queue import Busy
from vaekit.web.turns import turn
from vaekit.web.wire import Img2Img, Limits, Txt2Img, encoded

EMPTY = ("script-info", "upscalers", "loras", "hypernetworks", "prompt-styles", "face-restorers", "realesrgan-models")
"""Lists of A1111's that have nothing in them here."""
PAGE = Path(__file__).parent / "page"
USUAL_SIDE = 512
"""A width or height that is left out where the other is given, as in A1111."""


class Refused(BaseModel):
    """Why a request was refused, and what kind of error that is."""

    detail: str
    error: str = ""


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refused, "description": why}
    for status, why in {
        401: "User and password are needed",
        403: "Another site, or another host's name",
        413: "Too large",
        422: "Something in the request is not possible; the reason says what to do",
        429: "Too many wait already",
        503: "The machine or the network failed",
    }.items()
}


class PngInfo(BaseModel):
    """image: base64, or a URL where the server fetches them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": lab.PIXEL}]})
    image: str


def create(
    desk: Desk,
    *,
    limits: Limits | None = None,
    hosts: tuple[str, ...] | None = None,
    api_auth: str | None = None,
    ui_auth: str | None = None,
    origins: tuple[str, ...] = (),
    urls: bool = False,
) -> FastAPI:
    """The application.

    hosts: names it answers to beside loopback's; ("*",) for any. api_auth, ui_auth: user:password, of the API and of
    the page; one alone is asked for everywhere. origins: other sites whose pages may use the API. urls: fetch pictures
    that requests name by URL, from public addresses.
    """
    limits = limits or Limits()
    errands = Errands(partial(desk.library, anew=True), desk.told)
    fetcher = Fetcher(urls)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        fetcher.close()
        await asyncio.to_thread(errands.close)
        await asyncio.to_thread(desk.close)

    app = FastAPI(
        title="vaekit",
        version=version(),
        summary="Stable Diffusion's VAEs: A1111's API under /sdapi/v1, and vaekit's own under /api/v1",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    _errors(app, desk)
    _lists(app, desk, urls)
    _options(app, desk)
    _drawing(app, desk, limits, fetcher)
    lab.add(app, desk, limits, fetcher)
    watching.add(app, desk)
    shelf.add(app, desk, errands)
    _own(app, desk)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    known = None if hosts == ("*",) else (*LOOPBACK, *(hosts or ()))
    app.add_middleware(Guard, rules=Rules(limits.body, known, api_auth, ui_auth, frozenset(origins)))
    return app


def _errors(app: FastAPI, desk: Desk) -> None:
    @app.exception_handler(VaekitError)
    async def told(request: Request, error: VaekitError) -> JSONResponse:
        status = 429 if isinstance(error, Busy) else 422 if error.exit_code == 2 else 503
        detail = await asyncio.to_thread(desk.told, str(error))
        return JSONResponse({"detail": detail, "error": type(error).__name__}, status)


def _lists(app: FastAPI, desk: Desk, urls: bool) -> None:
    @app.get("/sdapi/v1/sd-vae")
    def sd_vae() -> list[dict[str, str]]:
        return [{"model_name": name, "filename": path.name} for name, path in desk.vaes().items()]

    @app.get("/sdapi/v1/sd-models")
    def sd_models() -> list[dict[str, Any]]:
        return [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": path.name, "config": None}
            for name, path in desk.checkpoints().items()
        ]

    @app.post("/sdapi/v1/refresh-vae")
    @app.post("/sdapi/v1/refresh-checkpoints")
    def refresh() -> None:
        desk.library(anew=True)

    @app.get("/sdapi/v1/samplers")
    def list_samplers() -> list[dict[str, Any]]:
        return [{"name": name, "aliases": [], "options": {}} for name in samplers()]

    @app.get("/sdapi/v1/schedulers")
    def list_schedulers() -> list[dict[str, Any]]:
        automatic = {"name": AUTOMATIC.lower(), "label": AUTOMATIC, "aliases": []}
        others = [
            {"name": name.lower().replace(" ", "_"), "label": name, "aliases": list(one.also)}
            for name, one in schedules().items()
        ]
        return [automatic, *others]

    @app.get("/sdapi/v1/latent-upscale-modes")
    def latent_upscale_modes() -> list[dict[str, str]]:
        return [{"name": "Latent"}]

    @app.get("/sdapi/v1/scripts")
    def scripts() -> dict[str, list[str]]:
        return {"txt2img": [], "img2img": []}

    for name in EMPTY:
        app.get(f"/sdapi/v1/{name}", name=name)(lambda: [])

    @app.get("/sdapi/v1/cmd-flags")
    def cmd_flags() -> dict[str, Any]:
        return {"api": True, "device": desk.device, "allow_urls": urls}

    @app.get("/sdapi/v1/memory")
    def memory() -> dict[str, Any]:
        """Bytes."""
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        told: dict[str, Any] = {"ram": {"free": free, "used": total - free, "total": total}, "cuda": {}}
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            told["cuda"] = {"system": {"free": free, "used": total - free, "total": total}}
        return told

    @app.get("/sdapi/v1/embeddings")
    def embeddings() -> dict[str, Any]:
        return {"loaded": {}, "skipped": {}}


def _options(app: FastAPI, desk: Desk) -> None:
    @app.get("/sdapi/v1/options")
    def options() -> dict[str, Any]:
        """Every option; the checkpoint is the one that is really in use."""
        stored = desk.store.read()
        used = {path: name for name, path in desk.checkpoints().items()}
        try:
            in_use = used.get(desk.checkpoint(stored), stored.sd_model_checkpoint)
        except VaekitError:
            in_use = stored.sd_model_checkpoint
        return stored.model_dump() | {"sd_model_checkpoint": in_use}

    @app.post("/sdapi/v1/options")
    def change(values: Annotated[dict[str, Any], Body(examples=[{"sd_vae": "mini-mse"}])]) -> None:
        """Store some options; all of them or none."""
        desk.check(values)
        desk.store.change(values)

    @app.post("/api/v1/import")
    def take_over(config: Annotated[dict[str, Any], Body(examples=[{"sd_vae": "None"}])]) -> dict[str, Any]:
        """Take over the options of an A1111 config.json: what was taken, refused with the reason, and is not known."""
        told: dict[str, Any] = desk.told(asdict(desk.store.take_over(config, desk.check)))
        return told

    @app.get("/api/v1/settings")
    def settings() -> list[dict[str, Any]]:
        """Every option with what it may be, for pages."""
        values = desk.store.read().model_dump()
        schema = Options.model_json_schema()["properties"]
        choices: dict[str, list[str]] = {
            "sd_vae": [AUTOMATIC, "None", *desk.vaes()],
            "sd_model_checkpoint": list(desk.checkpoints()),
            "quicksettings_list": list(schema),
        }
        return [
            {
                "name": name,
                "type": about["type"],
                "choices": choices.get(name) or about.get("enum"),
                "minimum": about.get("minimum"),
                "maximum": about.get("maximum"),
                "value": values[name],
            }
            for name, about in schema.items()
        ]


def _drawing(app: FastAPI, desk: Desk, limits: Limits, fetcher: Fetcher) -> None:
    @app.post("/sdapi/v1/txt2img")
    async def txt2img(wish: Txt2Img, request: Request) -> dict[str, Any]:
        return await _served(desk, limits, wish, request, None)

    @app.post("/sdapi/v1/img2img")
    async def img2img(wish: Img2Img, request: Request) -> dict[str, Any]:
        wish = await fetcher.fetched(wish, "init_images", "mask")
        with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
            return await _served(desk, limits, wish, request, Path(folder))

    @app.get("/sdapi/v1/progress")
    def progress(skip_current_image: bool = False) -> dict[str, Any]:
        now = desk.progress
        picture = None if skip_current_image else now.picture
        return {
            "progress": now.share,
            "eta_relative": now.seconds_left,
            "state": {
                "skipped": now.skipped,
                "interrupted": now.interrupted,
                "stopping_generation": now.interrupted,
                "job": now.job,
                "job_count": now.count if now.job else 0,
                "job_timestamp": "0",
                "job_no": now.number,
                "sampling_step": now.step,
                "sampling_steps": now.steps,
            },
            "current_image": None if picture is None else encoded(picture),
            "textinfo": f"{desk.pending - 1} waiting" if desk.pending > 1 else None,
        }

    @app.post("/sdapi/v1/interrupt")
    def interrupt() -> dict[str, Any]:
        desk.interrupt()
        return {}

    @app.post("/sdapi/v1/skip")
    def skip() -> dict[str, Any]:
        desk.skip()
        return {}

    @app.post("/sdapi/v1/png-info")
    async def png_info(wish: PngInfo) -> dict[str, Any]:
        text = await asyncio.to_thread(_text_in, await fetcher.fetched(wish, "image"))
        found = infotext.parse(text) if text else None
        parameters = (
            {} if found is None else {"Prompt": found.prompt, "Negative prompt": found.negative, **found.settings}
        )
        return {"info": text or "", "items": {"parameters": text} if text else {}, "parameters": parameters}


def _text_in(wish: PngInfo) -> str:
    from vaekit.images import read_text

    with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
        path = Path(folder) / "picture"
        path.write_bytes(wire.picture_bytes(wish.image, "image"))
        return read_text(path)


async def _served(desk: Desk, limits: Limits, wish: Txt2Img, request: Request, folder: Path | None) -> dict[str, Any]:
    """Wait for the turn, draw, answer; a client that goes away frees its place."""
    wire.check_rest(wish)
    stored = desk.store.read()
    options = stored.changed(wish.override_settings)
    await asyncio.to_thread(desk.resolution, options)
    drawn = wire.settings(wish, limits, USUAL_SIDE)
    change = None
    if folder is not None:
        assert isinstance(wish, Img2Img)
        change = await asyncio.to_thread(wire.change, wish, folder, limits)
        drawn = await asyncio.to_thread(_bounded, drawn, change.picture, limits)
    done = await turn(desk, request, lambda: desk.draw(drawn, options, change, keep=wish.save_images), desk.interrupt)
    if wish.override_settings and not wish.override_settings_restore_afterwards:
        desk.store.change(wish.override_settings)
    return _answer(wish, done, desk.told(done.resolution.to_dict()))


def _bounded(drawn: Settings, picture: Path, limits: Limits) -> Settings:
    """The same; refused where the picture's own size, which is drawn when none is given, is too large."""
    from vaekit.images import size_of

    if drawn.size is None:
        width, height = size_of(picture)
        if max(width, height) > limits.side:
            raise OptionError(f"{width}×{height} is more than this server draws: {limits.side} pixels a side")
    return drawn


def _answer(wish: Txt2Img, done: Done, resolution: dict[str, Any]) -> dict[str, Any]:
    size = done.pictures[0].size if done.pictures else (0, 0)
    info = {
        "prompt": wish.prompt,
        "all_prompts": [wish.prompt] * len(done.seeds),
        "negative_prompt": wish.negative_prompt,
        "seed": done.seeds[0] if done.seeds else wish.seed,
        "all_seeds": list(done.seeds),
        "width": size[0],
        "height": size[1],
        "sampler_name": done.settings.get("Sampler"),
        "cfg_scale": wish.cfg_scale,
        "steps": wish.steps,
        "batch_size": wish.batch_size,
        "sd_model_name": done.model,
        "sd_model_hash": done.settings.get("Model hash"),
        "sd_vae_name": done.settings.get("VAE"),
        "sd_vae_hash": done.settings.get("VAE hash"),
        "infotexts": list(done.texts),
        "interrupted": done.interrupted,
        "files": [path.name for path in done.files] if wish.save_images else [],
        "vae_resolution": resolution,
        "not_used": wire.not_used(wish),
    }
    pictures = [encoded(one, text) for one, text in zip(done.pictures, done.texts, strict=True)]
    return {
        "images": pictures if wish.send_images else [],
        "parameters": wish.model_dump(exclude={"init_images", "mask"}),
        "info": json.dumps(info, ensure_ascii=False),
    }


def _own(app: FastAPI, desk: Desk) -> None:
    begun = time.monotonic()

    @app.get("/api/v1/vae")
    def vae() -> dict[str, Any]:
        """Which VAE the stored options lead to, and why."""
        found = desk.resolution(desk.store.read())
        told: dict[str, Any] = desk.told(found.to_dict())
        told["hash"] = None if found.path is None or found.baked else short_hash(found.path)
        told["line"] = f"{told['choice']} → {told['name']}: {told['reason']}"
        told["only_bundled"] = set(desk.checkpoints()) == set(assets.bundled_checkpoints())
        return told

    @app.get("/api/v1/languages")
    def languages() -> dict[str, str]:
        """The languages of the page, each with its own name for itself."""
        files = sorted((PAGE / "texts").glob("*.json"))
        return {file.stem: json.loads(file.read_text("utf-8"))["language.name"] for file in files}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        """Whether a drawing could begin. 422 with the reason where not."""
        desk.resolution(desk.store.read())
        return {"status": "ready"}

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        values = {
            "vaekit_requests_drawn_total": desk.served,
            "vaekit_requests_failed_total": desk.failed,
            "vaekit_requests_refused_total": desk.refused,
            "vaekit_requests_pending": desk.pending,
            "vaekit_uptime_seconds": round(time.monotonic() - begun, 1),
        }
        kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in values}
        lines = [f"# TYPE {name} {kinds[name]}\n{name} {value}\n" for name, value in values.items()]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    for area in ("sdapi", "api"):

        @app.api_route(f"/{area}/{{rest:path}}", methods=["GET", "POST"], include_in_schema=False, name=area)
        def missing(request: Request, rest: str) -> None:
            paths = [getattr(route, "path", "") for route in request.app.routes]
            raise HTTPException(
                404, unknown(request.url.path, [p for p in paths if p.startswith("/") and "{" not in p])
            )

"""Routes about models: what is on this disk, preferences, search, download, extract, bake, inspect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from vaekit.catalog import Entry, Library, Preferences, catalog, prefer
from vaekit.catalog.choice import AUTOMATIC, NONE
from vaekit.catalog.known import nearest
from vaekit.catalog.library import printable, stem
from vaekit.errors import OptionError
from vaekit.web.desk import Desk
from vaekit.web.errands import Errands, Report
from vaekit.web.options import Options
from vaekit.web.turns import turn

FILE_NAME = re.compile(r"[\w()+-][\w .()+-]{0,99}\.safetensors")
FETCHED = ("hf:", "civitai:")
"""What a download may begin with beside the catalog's names; addresses are for the command line."""


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Prefer(_Wish):
    """vae: a name out of /sdapi/v1/sd-vae, None for the baked one, Automatic to forget what is stored."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"checkpoint": "mini-sd", "vae": "mini-mse"}]}
    )
    checkpoint: str
    vae: str


class Pull(_Wish):
    """target: a name of the catalog, hf:OWNER/NAME, or civitai:NUMBER."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"target": "ft-mse"}]})
    target: str = Field(max_length=300)


class Extract(_Wish):
    """name: of the new file; the checkpoint's with .vae.safetensors, if it is left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"checkpoint": "model.safetensors"}]})
    checkpoint: str
    name: str | None = None
    layout: Literal["ldm", "diffusers", "flux", "taesd"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class Bake(_Wish):
    """name: of the new checkpoint."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"checkpoint": "mini-sd", "vae": "mini", "name": "mine.safetensors"}]},
    )
    checkpoint: str
    vae: str
    name: str
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class Inspect(_Wish):
    """name: of a VAE or a checkpoint."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "mini"}]})
    name: str


def add(app: FastAPI, desk: Desk, errands: Errands) -> None:
    @app.get("/api/v1/models")
    def models() -> dict[str, Any]:
        """Every VAE and checkpoint that was found, what cannot be read with the reason, and the folder of new ones."""
        library = desk.library()
        stored = Preferences().all()
        names = {path: name for names in (desk.vaes(), desk.checkpoints()) for name, path in names.items()}
        entries = library.of_kind("checkpoint", "vae", "broken", "unfinished")
        told = [_entry(entry, names.get(entry.path), library, stored) for entry in entries]
        return {"models": desk.told(told), "made_in": desk.made.name}

    @app.post("/api/v1/fingerprints")
    async def fingerprints(request: Request) -> None:
        """Read the weights of every VAE once, baked ones too: tells which are the same, and published ones."""
        await turn(desk, request, lambda: desk.library().fingerprint_all())

    @app.post("/api/v1/preference")
    def preference(wish: Prefer) -> dict[str, Any]:
        """Store which VAE a checkpoint gets by itself; the answer tells which one that is now, and why."""
        path, library = _checkpoint(desk, wish.checkpoint), desk.library()
        choice = wish.vae if wish.vae in (AUTOMATIC, NONE) else desk.vaes().get(wish.vae)
        if choice is None:
            raise OptionError(f"no VAE is called {wish.vae[:100]!r}; {nearest(wish.vae, set(desk.vaes()))}")
        told: dict[str, Any] = desk.told(prefer(path, choice, library=library).to_dict())
        return told

    @app.post("/api/v1/inspect")
    def inspect(wish: Inspect) -> list[dict[str, Any]]:
        """What the file's header tells; no weight is read."""
        from vaekit.checkpoints.inspect import inspect

        told: list[dict[str, Any]] = desk.told([found.to_dict() for found in inspect(_any(desk, wish.name))])
        return told

    @app.get("/api/v1/catalog")
    def published() -> list[dict[str, Any]]:
        """The published VAEs that vaekit knows, and which of them are here."""
        here = {entry.known for entry in desk.library().vaes}
        return [entry.to_dict() | {"here": entry.name in here} for entry in catalog()]

    @app.get("/api/v1/search")
    def search(words: str = "", family: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Asks Civitai and the hub."""
        from vaekit.catalog.search import search as look

        if not 1 <= limit <= 50:
            raise OptionError(f"limit is {limit}; 1 to 50 are possible")
        return [hit.to_dict() for hit in look(words[:200], base=family, limit=limit)]

    _errands(app, desk, errands)


def _errands(app: FastAPI, desk: Desk, errands: Errands) -> None:
    @app.get("/api/v1/errands")
    def list_errands() -> list[dict[str, Any]]:
        """Downloads and what else takes long, the latest first, with how far each is."""
        return [errand.to_dict() for errand in errands.all()]

    @app.delete("/api/v1/errands/{name}")
    def stop(name: str) -> None:
        errands.stop(name)

    @app.post("/api/v1/pull")
    def pull(wish: Pull) -> dict[str, Any]:
        """Fetch a VAE into vaekit's own folder. The answer is an errand to be watched."""
        if not wish.target.lower().startswith(FETCHED):
            catalog().find(wish.target)

        def work(report: Report) -> Path:
            from vaekit.catalog.pull import pull

            return pull(wish.target, progress=lambda _, done, total: report(done, total))

        return errands.begin("pull", wish.target, work).to_dict()

    @app.post("/api/v1/extract")
    def extract(wish: Extract) -> dict[str, Any]:
        """Write the VAE of a checkpoint as a file of its own. The answer is an errand to be watched."""
        source = _checkpoint(desk, wish.checkpoint)
        goal = _goal(desk, wish.name or f"{stem(source.name)}.vae.safetensors")

        def work(report: Report) -> Path:
            from vaekit.checkpoints.extract import Form, extract

            return extract(source, goal, Form(wish.layout, _dtype(wish.dtype)), progress=report).path

        return errands.begin("extract", f"{wish.checkpoint} → {goal.name}", work).to_dict()

    @app.post("/api/v1/bake")
    def bake(wish: Bake) -> dict[str, Any]:
        """Write a copy of a checkpoint with another VAE in it. The answer is an errand to be watched."""
        source, vae = _checkpoint(desk, wish.checkpoint), _any(desk, wish.vae)
        goal = _goal(desk, wish.name)

        def work(report: Report) -> Path:
            from vaekit.checkpoints.bake import bake

            return bake(source, vae, goal, dtype=_dtype(wish.dtype), progress=report).path

        return errands.begin("bake", f"{wish.checkpoint} + {wish.vae} → {goal.name}", work).to_dict()


def _entry(entry: Entry, name: str | None, library: Library, stored: dict[Path, Any]) -> dict[str, Any]:
    preferred = stored.get(entry.path.resolve())
    return {
        "name": name or printable(entry.name),
        "kind": entry.kind,
        "family": list(entry.families),
        "network": entry.facts.network,
        "layout": entry.facts.layout,
        "dtypes": list(entry.facts.dtypes),
        "container": entry.facts.container,
        "has_vae": entry.facts.has_vae,
        "size": entry.size,
        "program": printable(entry.program),
        "known": entry.known,
        "fingerprint": entry.fingerprint,
        "same_as": [printable(copy.known or copy.name) for copy in library.copies(entry) if copy.kind == "vae"],
        "preferred": None if preferred is None else printable(getattr(preferred, "name", preferred)),
        "note": printable(entry.facts.note),
    }


def _checkpoint(desk: Desk, name: str) -> Path:
    """By a name that lists have, of a file that may be loaded. Raises OptionError, UnsafeFileError."""
    if not name:
        raise OptionError("name a checkpoint")
    path = desk.checkpoint(Options(sd_model_checkpoint=name))
    desk.refuse_pickle(desk.library().look(path))
    return path


def _any(desk: Desk, name: str) -> Path:
    found = desk.vaes() | desk.checkpoints()
    if name not in found:
        raise OptionError(f"nothing is called {name[:100]!r}; {nearest(name, set(found))}")
    desk.refuse_pickle(desk.library().look(found[name]))
    return found[name]


def _goal(desk: Desk, name: str) -> Path:
    """A new file in the folder of models that are made here. Raises OptionError."""
    if not FILE_NAME.fullmatch(name):
        raise OptionError(
            f"{name[:100]!r} is no name for a file of models: letters, digits and spaces, ending in .safetensors"
        )
    goal = desk.made / name
    if goal.exists():
        raise OptionError(f"{name} exists already; choose another name")
    return goal


def _dtype(name: str | None) -> Any:
    from vaekit.engine.placement import parse_dtype

    return None if name is None else parse_dtype(name)

"""Where models are kept on this disk: the programs' own folders, the hub's cache, the folders that a user names."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vaekit import folders
from vaekit.errors import FileError, OptionError

log = logging.getLogger("vaekit")

VARIABLE = "VAEKIT_MODELS"
Role = Literal["vae", "checkpoints", "any"]

DOWNLOADS = "vaekit"
_WEBUI, _COMFYUI, _NAMED = "A1111, Forge, SD.Next", "ComfyUI", "named"
LAYOUT: tuple[tuple[str, Role, str], ...] = (
    ("models/VAE", "vae", _WEBUI),
    ("models/VAE-taesd", "vae", _WEBUI),
    ("models/Stable-diffusion", "checkpoints", _WEBUI),
    ("models/Diffusers", "checkpoints", _WEBUI),
    ("models/vae", "vae", _COMFYUI),
    ("models/vae_approx", "vae", _COMFYUI),
    ("models/checkpoints", "checkpoints", _COMFYUI),
    ("models/diffusion_models", "checkpoints", _COMFYUI),
    ("models/unet", "checkpoints", _COMFYUI),
)
"""The folders inside an installation, what they are for, and whose they are."""

INSTALLATIONS = (
    "stable-diffusion-webui",
    "stable-diffusion-webui-forge",
    "stable-diffusion-webui-reForge",
    "sd-webui-forge-classic",
    "ComfyUI",
    "sdnext",
    "automatic",
)
"""What the programs' folders are called when nobody renames them."""

_COMFYUI_ROLES: dict[str, Role] = {
    "vae": "vae",
    "vae_approx": "vae",
    "checkpoints": "checkpoints",
    "diffusion_models": "checkpoints",
    "unet": "checkpoints",
}
_SDNEXT_ROLES: dict[str, Role] = {
    "vae_dir": "vae",
    "ckpt_dir": "checkpoints",
    "diffusers_dir": "checkpoints",
    "unet_dir": "checkpoints",
}
_VAE_FOLDERS = frozenset(("vae", "vaes", "vae_approx", "vae-taesd"))
LARGEST_SETTINGS = 1 << 20


@dataclass(frozen=True)
class Place:
    """A folder to look into. program: whose it is; label: what stands before the names of its files (a repository)."""

    folder: Path
    program: str
    role: Role = "any"
    label: str = ""

    def role_of(self, relative: str) -> Role:
        """What a file in it is for: the place's own role, else that of the folders on the way."""
        inside = relative.casefold().split("/")[:-1]
        return "vae" if self.role == "any" and _VAE_FOLDERS.intersection(inside) else self.role


def downloads_folder() -> Path:
    """Where fetched VAEs are kept."""
    return folders.downloads()


def places(models: Sequence[Path] = ()) -> list[Place]:
    """Every folder to look into that is there, the named ones first.

    models: folders of models, whole installations, or ComfyUI's lists of paths (.yaml); VAEKIT_MODELS
    names more of them, joined as in PATH. Raises OptionError for one of `models` that is not there.
    """
    found = [place for path in models for place in _named(path)]
    for path in _from_environment():
        try:
            found += _named(path)
        except OptionError as error:
            log.warning("%s: %s", VARIABLE, error)
    found.append(Place(folders.downloads(), DOWNLOADS, "vae"))
    for folder in _installations():
        try:
            found += _in_installation(folder)
        except OSError as error:
            log.warning("%s: %s; it is left out", folder, error.strerror or error)
    found += _in_hub_cache(_hub_cache())
    return [place for place in found if os.path.isdir(place.folder)]


def _from_environment() -> list[Path]:
    return [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def _named(path: Path) -> list[Place]:
    path = _expanded(path)
    try:
        if path.is_dir():
            return _in_installation(path) or [Place(path, _NAMED)]
        if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
            return list(_in_comfyui_list(path))
    except (OSError, ValueError) as error:
        raise OptionError(f"{str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    raise OptionError(f"{path}: no such folder of models")


# Installations


def _installations() -> Iterator[Path]:
    with contextlib.suppress(OSError):  # it may have been removed
        yield Path.cwd()
    for base in (Path.home(), Path.home() / "Documents"):
        yield from (base / name for name in INSTALLATIONS)


def _in_installation(folder: Path) -> list[Place]:
    """Its folders of models, and those that its own settings name; none where it is no installation."""
    found = [Place(folder / sub, program, role) for sub, role, program in LAYOUT if (folder / sub).is_dir()]
    usual = {place.folder for place in found}
    found += [place for place in _in_sdnext_settings(folder / "config.json") if place.folder not in usual]
    listed = folder / "extra_model_paths.yaml"
    if found and listed.is_file():
        try:
            found += _in_comfyui_list(listed)
        except FileError as error:
            log.warning("%s; its folders are left out", error)
    return found


def _in_sdnext_settings(path: Path) -> Iterator[Place]:
    """The folders in SD.Next's config.json; none where it is another program's, broken, or not there."""
    settings = _json_object(path)
    base = path.parent
    moved = settings.get("models_dir")
    if isinstance(moved, str) and moved:
        inside = ((sub.removeprefix("models/"), role) for sub, role, program in LAYOUT if program == _WEBUI)
        yield from (Place(base / moved / sub, _WEBUI, role) for sub, role in inside)
    for key, role in _SDNEXT_ROLES.items():
        named = settings.get(key)
        if isinstance(named, str) and named:
            yield Place(base / named, _WEBUI, role)


def _json_object(path: Path) -> dict[str, object]:
    try:
        loaded = json.loads(path.read_text("utf-8")) if path.stat().st_size <= LARGEST_SETTINGS else None
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _in_comfyui_list(path: Path) -> Iterator[Place]:
    """The folders in an extra_model_paths.yaml, read as ComfyUI reads it."""
    for section in _sections(path):
        base = path.absolute().parent / _expanded(section.get("base_path") or "")
        for key, role in _COMFYUI_ROLES.items():
            named = section.get(key)
            for line in named.splitlines() if isinstance(named, str) else ():
                if line.strip():
                    yield Place(base / _expanded(line), _COMFYUI, role)


def _sections(path: Path) -> Iterable[dict[str, object]]:
    import yaml

    try:
        if path.stat().st_size > LARGEST_SETTINGS:
            raise FileError(f"{path}: too large for a list of paths")
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise FileError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or 'broken'})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: cannot be read as a list of paths ({type(error).__name__})") from error
    if not isinstance(loaded or {}, dict):
        raise FileError(f"{path}: not a list of paths as ComfyUI reads it")
    return [section for section in (loaded or {}).values() if isinstance(section, dict)]


def _expanded(text: object) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(str(text).strip())))


# The hub's cache


def _hub_cache() -> Path:
    """As huggingface_hub decides it."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return _expanded(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return _expanded(os.environ.get("HF_HOME") or Path(cache) / "huggingface") / "hub"


def _in_hub_cache(hub: Path) -> Iterator[Place]:
    """One place for each revision of each repository; the files in it are links."""
    try:
        snapshots = sorted(hub.glob("models--*/snapshots/*"))
    except OSError as error:
        log.warning("%s: %s; the hub's cache is left out", hub, error.strerror or error)
        return
    for snapshot in snapshots:
        repository = snapshot.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
        yield Place(snapshot, "Hugging Face", "any", label=repository)

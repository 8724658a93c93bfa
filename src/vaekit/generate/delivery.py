"""From latents to a picture on the disk, without ever losing the latents."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from vaekit import images
from vaekit.engine.strips.budget import Memory, settle
from vaekit.engine.strips.telling import amount
from vaekit.errors import NumericsError, OptionError, OutputError, ResourceError, VaekitError
from vaekit.generate.painter import Drawn
from vaekit.latents import Latents
from vaekit.vae import VAE

log = logging.getLogger("vaekit")


def deliver(drawn: Drawn, path: Path, *, force: bool = False) -> Image.Image:
    """Decode a drawing and write it with the text of how it was drawn.

    A decode that fails for memory or NaN is tried in other ways. Where nothing
    helps, or the picture cannot be written, the latents are saved beside it (or,
    if that fails too, in the folder for temporary files) and the error names them.
    """
    try:
        picture = decode(drawn)
        images.write(picture, path, force=force, text=str(drawn.text))
    except KeyboardInterrupt:
        log.warning("interrupted before the picture was written; %s", _kept(drawn.latents, path))
        raise
    except VaekitError as error:
        raise type(error)(f"{error}; {_kept(drawn.latents, path)}") from error
    return picture


def decode(drawn: Drawn) -> Image.Image:
    """The picture, by the VAE or, where that fails for memory or NaN, by it in less memory, another dtype or place.

    Raises ResourceError and NumericsError where every way failed, and OptionError for a budget that is too small.
    """
    try:
        return _picture(drawn, drawn.vae, drawn.memory)
    except (ResourceError, NumericsError) as error:
        problem: VaekitError = error
    for told, way in _other_ways(drawn, problem):
        log.warning("%s: decoded again %s", problem, told)
        try:
            return way()
        except (ResourceError, NumericsError) as error:
            problem = error
    raise problem


def _picture(drawn: Drawn, vae: VAE, memory: Memory) -> Image.Image:
    picture = vae.decode(drawn.latents, memory=memory)
    assert isinstance(picture, Image.Image)
    picture = picture.convert("RGB")
    return picture if drawn.subject is None else drawn.subject.merged(picture)


def _other_ways(drawn: Drawn, problem: VaekitError) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """How to decode what could not be, from what changes least."""
    vae, placement = drawn.vae, drawn.vae.placement
    if isinstance(problem, ResourceError):
        memory = min(settle(wished, placement.device).bytes for wished in (drawn.memory, None)) // 2
        yield f"inside {amount(memory)} of memory", lambda: _inside(drawn, memory)
    if placement.decode_dtype == torch.float32:
        dtype, told = torch.bfloat16, "in bfloat16, which takes half the memory"
    else:
        dtype, told = torch.float32, "in float32, which is wider"
    yield told, lambda: _picture(drawn, _placed(vae, placement.device, dtype), drawn.memory)
    if placement.device.type != "cpu":
        yield "on the CPU", lambda: _picture(drawn, _placed(vae, torch.device("cpu"), torch.float32), drawn.memory)


def _inside(drawn: Drawn, memory: int) -> Image.Image:
    """Nobody asked for this budget: that it is too small is one more lack of memory."""
    try:
        return _picture(drawn, drawn.vae, memory)
    except OptionError as error:
        raise ResourceError(str(error)) from error


def _placed(vae: VAE, device: torch.device, dtype: torch.dtype) -> VAE:
    placement = replace(vae.placement, device=device, decode_dtype=dtype, why="because the first way failed")
    return VAE(vae.name, vae.family, vae.config, vae.weights, placement)


def _kept(latents: Latents, path: Path) -> str:
    """Save the latents, and tell where they are."""
    for folder in (path.parent, Path(tempfile.gettempdir())):
        target = _free(folder / f"{path.stem}.latents.safetensors")
        try:
            latents.save(target)
        except (OutputError, OSError):
            continue
        return f"the latents are kept in {target} (vaekit decode {target} --vae NAME makes a picture of them)"
    return "the latents could not be saved either: no disk takes them"


def _free(path: Path) -> Path:
    """A name that is not taken."""
    number, chosen = 1, path
    while chosen.exists():
        number += 1
        chosen = path.with_name(f"{path.name.removesuffix('.latents.safetensors')}-{number}.latents.safetensors")
    return chosen

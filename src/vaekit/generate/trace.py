"""The latents of every step, kept in a file, and drawn: noise on the left, the picture on the right.

Version 1 of the file is a safetensors file. For each pass ("first", "hires"):
`PASS.latents` and `PASS.denoised`, float32 [S, B, C, h, w], as in `Step`, and
`PASS.sigmas` [S]. The latents that came out in the end stand as the last step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from vaekit import images
from vaekit.checkpoints.sources import SafetensorsSource
from vaekit.errors import FamilyError, LatentsError, OptionError, OutputError, VaekitError
from vaekit.families import Family, families
from vaekit.files import atomic_write
from vaekit.generate.sampling import Step
from vaekit.latents import Latents, draw
from vaekit.loading import load as load_vae
from vaekit.vae import VAE
from vaekit.version import version

log = logging.getLogger("vaekit")

MARK: Final = "vaekit-trace"
PASSES = ("first", "hires")
MOST_BYTES = 1 << 32
COLUMNS = 12
"""Steps in a sheet at most; of more, so many evenly spread ones, the first and the last among them."""
TILE = 96
"""Pixels on the longer side of a tile in a sheet, about."""
MOST_PIXELS = 100_000_000
GAP, LABEL = 6, 132
FORMATS = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG"}


@dataclass(frozen=True)
class Traced:
    """One pass. latents, denoised: [S, B, C, h, w]; sigmas: [S], noise beside a picture of weight 1."""

    latents: Tensor
    denoised: Tensor
    sigmas: Tensor


@dataclass(frozen=True)
class TraceFile:
    """What a trace holds. vae: the name or path of the VAE that it was drawn with; text: how it was drawn."""

    family: Family
    passes: Mapping[str, Traced]
    vae: str
    text: str

    def of(self, traced: Tensor, step: int, index: int) -> Latents:
        """One step of one picture, as Latents."""
        values = traced[step, index : index + 1]
        side = self.family.downscale
        return Latents(values, self.family, (values.shape[3] * side, values.shape[2] * side))


class Trace:
    """Watches the sampler and keeps every step; `save` writes them."""

    def __init__(self) -> None:
        self._steps: dict[str, list[Step]] = {}

    def __call__(self, step: Step) -> None:
        self._steps.setdefault(step.part or "first", []).append(step)

    def save(self, path: Path, final: Tensor, family: Family, *, vae: str, text: str, force: bool = False) -> None:
        """Write what was seen. final: the latents that came out, [B, C, h, w]. Raises OutputError, OptionError."""
        if not self._steps:
            raise OptionError("nothing was sampled, so there is nothing to trace (a strength of 0?)")
        tensors: dict[str, Tensor] = {}
        for name, steps in self._steps.items():
            last = name == list(self._steps)[-1] and final.shape == steps[-1].denoised.shape
            end = [final.float().cpu()] if last else []
            tensors[f"{name}.latents"] = torch.stack([one.latents.cpu() for one in steps] + end)
            tensors[f"{name}.denoised"] = torch.stack([one.denoised.cpu() for one in steps] + end)
            tensors[f"{name}.sigmas"] = torch.tensor([one.sigma for one in steps] + [0.0] * len(end))
        about = {
            "format": MARK,
            "version": "1",
            "family": family.name,
            "family_numbers": family.model_dump_json(),
            "vae": vae,
            "parameters": text,
            "vaekit": version(),
        }
        with atomic_write(path, force=force) as part:
            part.write_bytes(safetensors.torch.save(tensors, about))


def load(path: Path) -> TraceFile:
    """Read a trace. Raises FileError and LatentsError for what is none, or broken."""
    source = SafetensorsSource(path)
    if source.metadata.get("format") != MARK:
        raise LatentsError(f"{path}: no trace of a sampler (vaekit txt2img --trace FILE writes one)")
    if source.metadata.get("version") != "1":
        raise LatentsError(f"{path}: a trace of another version than 1, which this vaekit reads")
    try:
        stored = Family.model_validate_json(source.metadata.get("family_numbers", ""))
    except (ValidationError, ValueError) as error:
        raise LatentsError(f"{path}: its family is broken") from error
    known = families().get(stored.name)
    family = known if known is not None and known.same_space(stored) else stored
    if sum(source.size(name) for name in source.tensors) > MOST_BYTES:
        raise LatentsError(f"{path}: more than {MOST_BYTES >> 30} GiB; no trace is so large")
    passes = {}
    for name in PASSES:
        keys = [f"{name}.{what}" for what in ("latents", "denoised", "sigmas")]
        if all(key in source.tensors for key in keys):
            loaded = source.load(keys)
            passes[name] = _checked(path, family, *(loaded[key] for key in keys))
    if not passes:
        raise LatentsError(f"{path}: a trace without steps")
    return TraceFile(family, passes, source.metadata.get("vae", ""), source.metadata.get("parameters", ""))


def _checked(path: Path, family: Family, latents: Tensor, denoised: Tensor, sigmas: Tensor) -> Traced:
    fits = latents.ndim == 5 and latents.shape == denoised.shape and latents.shape[2] == family.latent_channels
    if not fits or sigmas.shape != latents.shape[:1] or 0 in latents.shape:
        raise LatentsError(f"{path}: its tensors do not fit one another: {list(latents.shape)}, {list(denoised.shape)}")
    values = [one.float().clone() for one in (latents, denoised, sigmas)]
    if not all(bool(torch.isfinite(one).all()) for one in values):
        raise LatentsError(f"{path}: holds NaN or infinite values")
    return Traced(*values)


def vae_of(trace: TraceFile, wanted: str | None, *, device: str = "auto") -> VAE | None:
    """The VAE to decode a trace with: the one wished, else that it was drawn by; None for the linear factors.

    wanted: a name or path, or "linear". Where the one it was drawn by is not here
    any more, that is told and the linear factors stand in. Raises as `loading.load` does.
    """
    if wanted is not None and wanted.lower() == "linear":
        return None
    if wanted is not None:
        return load_vae(wanted, device=device)
    try:
        return load_vae(trace.vae, family=trace.family, device=device)
    except VaekitError as error:
        log.warning("the VAE of this trace is not here (%s): linear previews stand in; --vae names one", error)
        return None


# Drawing


def pictures(
    trace: TraceFile, name: str, vae: VAE | None, index: int = 0, steps: list[int] | None = None
) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Of each step, what the latents and what the estimate look like: decoded, or by the linear factors without a VAE.

    Raises FamilyError for a VAE of another family, LatentsError where there are no factors.
    """
    if vae is not None and not vae.family.same_space(trace.family):
        raise FamilyError(f"the trace is of {trace.family.name}, {vae.name} decodes {vae.family.name}")
    traced = trace.passes[name]
    for step in range(len(traced.sigmas)) if steps is None else steps:
        pair = []
        for tensor in (traced.latents, traced.denoised):
            latents = trace.of(tensor, step, index)
            pair.append(draw.preview(latents, zoom=trace.family.downscale) if vae is None else _decoded(vae, latents))
        yield pair[0], pair[1]


def _decoded(vae: VAE, latents: Latents) -> Image.Image:
    return images.to_pil(vae.decode(latents, output="tensor"))[0]


def chosen_steps(count: int, most: int = COLUMNS) -> list[int]:
    """Evenly spread ones, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def sheet(
    trace: TraceFile, vae: VAE | None = None, *, index: int = 0, track: Callable[[list[int]], Iterator[int]] = iter
) -> Image.Image:
    """Steps from left to right; a row per channel, then the latents decoded, then the estimate decoded.

    vae: decodes; without it the linear factors stand in. track: goes through the
    steps and shows how far it is. Raises OptionError, FamilyError, LatentsError.
    """
    name = next(iter(trace.passes))
    traced = trace.passes[name]
    if not 0 <= index < traced.latents.shape[1]:
        raise OptionError(f"there is no picture {index} among {traced.latents.shape[1]}; they are counted from 0")
    steps = chosen_steps(len(traced.sigmas))
    rows = _channel_rows(trace, traced, steps, index)
    both = [next(pictures(trace, name, vae, index, [step])) for step in track(steps)]
    shape = rows[0][0].size
    how = "linear" if vae is None else "decoded"
    labels = [f"channel {number}" for number in range(len(rows))] + [f"latents {how}", f"estimate {how}"]
    rows += [[pair[which].resize(shape, Image.Resampling.LANCZOS) for pair in both] for which in (0, 1)]
    sigmas = [f"step {step}\nnoise {float(traced.sigmas[step]):.2f}" for step in steps]
    return _grid(rows, labels, sigmas)


def _channel_rows(trace: TraceFile, traced: Traced, steps: list[int], index: int) -> list[list[Image.Image]]:
    """All steps in one range of colours: they are drawn as one long picture and cut apart."""
    values = traced.latents[steps, index]
    height, width = values.shape[2:]
    zoom = max(1, round(TILE / max(height, width)))
    if len(steps) * values[0].numel() * zoom**2 > MOST_PIXELS:
        values = F.interpolate(values, scale_factor=TILE / max(height, width), mode="area")
        height, width, zoom = *values.shape[2:], 1
    side = trace.family.downscale
    long = torch.cat(list(values), dim=2)[None]
    strip = Latents(long, trace.family, (long.shape[3] * side, long.shape[2] * side))
    drawn = draw.channels(strip, palette="diverging", zoom=zoom)
    w, h = width * zoom, height * zoom
    return [[one.crop((i * w, 0, (i + 1) * w, h)) for i in range(len(steps))] for one in drawn]


def _grid(rows: list[list[Image.Image]], labels: list[str], heads: list[str]) -> Image.Image:
    font = ImageFont.load_default(13)
    w, h = rows[0][0].size
    top = 40
    page = Image.new("RGB", (LABEL + len(heads) * (w + GAP), top + len(rows) * (h + GAP)), "white")
    pen = ImageDraw.Draw(page)
    for column, head in enumerate(heads):
        pen.multiline_text((LABEL + column * (w + GAP), 4), head, fill="black", font=font)
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + number * (h + GAP)
        pen.text((6, y + h // 2 - 8), label, fill="black", font=font)
        for column, tile in enumerate(row):
            page.paste(tile, (LABEL + column * (w + GAP), y))
    return page


def check_animation(path: Path) -> None:
    """Raise OutputError for a name whose ending is of no kind of animation."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: unknown kind of animation {path.suffix!r}; usable are {', '.join(FORMATS)}")


def write_animation(
    trace: TraceFile,
    path: Path,
    vae: VAE | None = None,
    *,
    index: int = 0,
    milliseconds: int = 120,
    force: bool = False,
    track: Callable[[list[int]], Iterator[int]] = iter,
) -> int:
    """Write what the latents and the estimate look like at each step, side by side; gives the count of frames.

    The last frame stays ten times as long. Raises OutputError, FamilyError, LatentsError.
    """
    check_animation(path)
    frames: list[Image.Image] = []
    for name, traced in trace.passes.items():
        for step in track(list(range(len(traced.sigmas)))):
            left, right = next(pictures(trace, name, vae, index, [step]))
            frame = Image.new("RGB", (left.width + right.width + GAP, left.height), "white")
            frame.paste(left, (0, 0))
            frame.paste(right, (left.width + GAP, 0))
            frames.append(frame)
    largest = max((frame.size for frame in frames), key=lambda size: size[0] * size[1])
    frames = [one if one.size == largest else one.resize(largest, Image.Resampling.NEAREST) for one in frames]
    with atomic_write(path, force=force) as part:
        frames[0].save(
            part,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=frames[1:],
            duration=[milliseconds] * (len(frames) - 1) + [milliseconds * 10],
            loop=0,
        )
    return len(frames)

"""encode, decode, roundtrip."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from vaekit.cli import common
from vaekit.errors import FileError, VaekitError
from vaekit.overlap import AHEAD, beside

if TYPE_CHECKING:
    from PIL.Image import Image

    from vaekit.latents import Latents
    from vaekit.vae import VAE

log = logging.getLogger("vaekit")

T = TypeVar("T")
Sample = Annotated[bool, typer.Option("--sample", help="Draw from the posterior instead of taking its mean.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the draw, with --sample.")]


def encode(
    pictures: common.Pictures,
    vae: common.Vae = "mini",
    output: common.Output = None,
    sample: Sample = False,
    seed: Seed = None,
    comfyui: Annotated[bool, typer.Option("--comfyui", help="Write ComfyUI's .latent files.")] = False,
    unscaled: Annotated[bool, typer.Option("--unscaled", help="Store raw latents, before scaling and shift.")] = False,
    alpha: common.Alpha = "keep",
    max_pixels: common.MaxPixels = None,
    decoder: common.DecoderFile = None,
    family: common.FamilyName = None,
    padding: common.Padding = None,
    device: common.Device = "auto",
    dtype: common.DtypeName = None,
    memory: common.Memory = None,
    attention_window: common.Window = None,
    engine: common.EngineName = "auto",
    quality: common.QualityName = "full",
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Encode pictures to latents.

    NAME.latents.safetensors each, in the working folder unless -o says otherwise.

    Example: vaekit encode photo.jpg --vae vae-ft-mse-840000.safetensors
    """
    from vaekit import images

    paths = images.find(pictures)
    goals = common.targets(paths, output, ".latent" if comfyui else ".latents.safetensors", force=force)
    coder = common.load_vae(vae, decoder, family, padding, device, dtype, engine, quality, attention_window)
    options = {"sample": sample, "seed": seed, **common.picture_options(alpha, max_pixels)}

    def save(made: _Made[Latents]) -> dict[str, Any]:
        latents, goal = made.sound, goals[made.path]
        latents.save(goal, format="comfyui" if comfyui else None, scaled=not unscaled, force=force)
        return {"picture": str(made.path), "latents": str(goal)} | _shapes(latents, made.seconds)

    with common.strips_bar("encoding", alone=len(paths) == 1) as told:
        encoded = _timed(paths, coder.encode_many(paths, memory=memory, progress=told, **options))
        report, code = common.gather(beside(save, encoded, ahead=_ahead(memory)), len(paths), "encoding")
    _report(report, as_json, lambda row: f"{row['latents']}  {_text_of(row)}")
    raise typer.Exit(code)


def decode(
    latents: common.Latents,
    vae: common.Vae = "mini",
    output: common.Output = None,
    picture_format: Annotated[
        str, typer.Option("--format", help="png, jpg, webp, avif, tif … where -o leaves it open.")
    ] = "png",
    any_family: Annotated[
        bool, typer.Option("--any-family", help="Decode latents of another family all the same.")
    ] = False,
    unscaled: common.Scaled = None,
    decoder: common.DecoderFile = None,
    family: common.FamilyName = None,
    padding: common.Padding = None,
    device: common.Device = "auto",
    dtype: common.DtypeName = None,
    memory: common.Memory = None,
    attention_window: common.Window = None,
    engine: common.EngineName = "auto",
    quality: common.QualityName = "full",
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Decode latents to pictures.

    vaekit's own files, ComfyUI's .latent, kohya's .npz, bare tensors.

    Example: vaekit decode photo.latents.safetensors --vae mini -o photo.png
    """
    from vaekit import batches

    paths = common.latents_files(latents)
    goals = common.picture_targets(paths, output, "." + picture_format.lstrip("."), force=force)
    coder = common.load_vae(vae, decoder, family, padding, device, dtype, engine, quality, attention_window)

    ahead = _ahead(memory)
    with common.strips_bar("decoding", alone=len(paths) == 1) as told:
        how: dict[str, Any] = {"any_family": any_family, "memory": memory, "progress": told}

        def load(path: Path) -> Latents:
            return coder.load_latents(path, scaled=None if unscaled is None else not unscaled)

        def draw(group: list[tuple[Path, Latents]]) -> list[tuple[Latents, list[Image]]]:
            path, loaded = group[0]
            if _by_rows(loaded, goals[path]):
                coder.decode_to(loaded, goals[path], force=force, **how)
                return [(loaded, [])]
            several = [one for _, one in group]
            return list(zip(several, batches.at_once(partial(coder.decode, **how), several), strict=True))

        def write(drawn: _Made[tuple[Latents, list[Image]]]) -> list[dict[str, Any]]:
            from vaekit import images

            loaded, pictures = drawn.sound
            written = common.numbered(goals[drawn.path], len(loaded.tensor))
            if pictures:  # none where it went into its file by rows
                for picture, goal in zip(pictures, written, strict=True):
                    images.write(picture, goal, force=force)
            told = {"latents": str(drawn.path)}
            return [told | {"picture": str(goal)} | _shapes(loaded, drawn.seconds) for goal in written]

        outcomes = batches.decoded(draw, paths, read=load, in_turn=memory is not None, together=coder.gains_by_batches)
        drawn = _timed(paths, outcomes)
        reports, code = common.gather(beside(write, drawn, ahead=ahead), len(paths), "decoding")
    _report([row for rows in reports for row in rows], as_json, lambda row: f"{row['picture']}  {_text_of(row)}")
    raise typer.Exit(code)


def roundtrip(
    pictures: common.Pictures,
    vae: common.Vae = "mini",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the decoded pictures: a file, or a folder for several.")
    ] = None,
    sample: Sample = False,
    seed: Seed = None,
    alpha: common.Alpha = "keep",
    max_pixels: common.MaxPixels = None,
    decoder: common.DecoderFile = None,
    family: common.FamilyName = None,
    padding: common.Padding = None,
    device: common.Device = "auto",
    dtype: common.DtypeName = None,
    memory: common.Memory = None,
    engine: common.EngineName = "auto",
    quality: common.QualityName = "full",
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Encode and decode pictures, and measure the loss.

    PSNR in dB, SSIM, mean CIEDE2000, and the time each way.

    Example: vaekit roundtrip photos/ --vae mini -o results/
    """
    from vaekit import images

    paths = images.find(pictures)
    goals = common.picture_targets(paths, output, ".roundtrip.png", force=force) if output else {}
    coder = common.load_vae(vae, decoder, family, padding, device, dtype, engine, quality)
    options = {"sample": sample, "seed": seed, **common.picture_options(alpha, max_pixels)}
    report: list[dict[str, Any]] = []

    def work(path: Path) -> None:
        result = _roundtrip(coder, path, goals.get(path), options, memory, force=force)
        report.append({"picture": str(path)} | result)

    code = common.each(paths, "there and back", work)
    _print_quality(report, as_json)
    raise typer.Exit(code)


@dataclass(frozen=True)
class _Made(Generic[T]):
    """What came of one file, and the seconds for which everything waited for it."""

    path: Path
    outcome: T | VaekitError
    seconds: float

    @property
    def sound(self) -> T:
        """Raises the error, where it is one."""
        if isinstance(self.outcome, VaekitError):
            raise self.outcome
        return self.outcome


def _timed(paths: Sequence[Path], outcomes: Iterable[T | VaekitError]) -> Iterator[_Made[T]]:
    started = time.perf_counter()
    for path, outcome in zip(paths, outcomes, strict=True):
        yield _Made(path, outcome, time.perf_counter() - started)
        started = time.perf_counter()


def _ahead(memory: str | None) -> int:
    """Results that may lie in memory beside the one that is being made: none where memory is told."""
    return AHEAD if memory is None else 0


def _by_rows(latents: Latents, goal: Path) -> bool:
    """Whether a picture goes into its file strip by strip: a large one without transparency, where the format can."""
    from vaekit import images

    width, height = latents.size
    large = width * height >= images.LARGE and len(latents.tensor) == 1 and latents.alpha is None
    return large and goal.suffix.lower() in images.BY_ROWS


def _roundtrip(
    coder: VAE, path: Path, goal: Path | None, options: dict[str, Any], memory: str | None, *, force: bool
) -> dict[str, Any]:
    from vaekit import images
    from vaekit.quality.metrics import measure

    original = images.to_pil(images.read(path, alpha=options["alpha"], **_limit(options)).pixels)[0]
    started = time.perf_counter()
    latents = coder.encode(path, memory=memory, **options)
    encoded = time.perf_counter()
    decoded = coder.decode(latents, memory=memory)
    finished = time.perf_counter()
    if isinstance(decoded, list):
        raise FileError(f"{path}: more than one picture")
    if goal is not None:
        images.write(decoded, goal, force=force)
    quality = measure(original, decoded.convert("RGB"))
    times = {"encode_seconds": round(encoded - started, 3), "decode_seconds": round(finished - encoded, 3)}
    return quality.to_dict() | times | ({"result": str(goal)} if goal else {})


def _limit(options: dict[str, Any]) -> dict[str, int]:
    return {"max_pixels": options["max_pixels"]} if "max_pixels" in options else {}


def _shapes(latents: Latents, seconds: float) -> dict[str, Any]:
    return {
        "size": list(latents.size),
        "shape": list(latents.tensor.shape),
        "family": latents.family.name,
        "seconds": round(seconds, 3),
    }


def _text_of(row: dict[str, Any]) -> str:
    width, height = row["size"]
    _, channels, h, w = row["shape"]
    return f"({width}×{height}×3, {w}×{h}×{channels} of {row['family']}, {row['seconds']:.2f} s)"


def _report(report: list[dict[str, Any]], as_json: bool, line: Any) -> None:
    if as_json:
        common.print_json(report)
    else:
        for row in report:
            typer.echo(line(row))


def _print_quality(report: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        common.print_json(report)
        return
    keys = ("psnr", "ssim", "ciede2000", "encode_seconds", "decode_seconds")
    rows = [(Path(row["picture"]).name, *(_cell(row, key) for key in keys)) for row in report]
    if len(report) > 1:
        rows.append(("mean", *(_mean(report, key) for key in keys)))
    if rows:
        common.print_table(("picture", "PSNR dB", "SSIM", "CIEDE2000", "encode s", "decode s"), rows)


def _cell(row: dict[str, Any], key: str) -> str:
    if key == "psnr" and row["identical"]:
        return "∞"
    return "–" if row[key] is None else f"{row[key]:.3f}"


def _mean(report: list[dict[str, Any]], key: str) -> str:
    """Over the pictures that have the measure; small ones have no SSIM, identical ones no finite PSNR."""
    values = [row[key] for row in report if row[key] is not None]
    return f"{sum(values) / len(values):.3f}" if values else "–"

"""doctor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import common
from vaekit.errors import OptionError

if TYPE_CHECKING:
    from vaekit.doctor import Examination

FAULTY = 1
"""Exit code where something certain or likely was found."""


def doctor(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCES", help="VAEs, checkpoints, pictures; globs or folders of them."),
    ] = None,
    device: Annotated[
        bool, typer.Option("--device", help="Try a VAE (without SOURCES: mini) on each device, in each dtype.")
    ] = False,
    decoder: common.DecoderFile = None,
    max_pixels: common.MaxPixels = None,
    as_json: common.Json = False,
) -> None:
    """Find what is wrong with a VAE, a picture or a device.

    Of a VAE: NaN weights, layers that float16 cannot hold, colour cast, paleness, purple blotches. Of a picture:
    purple blotches, washed-out colours, black tiles, seams, each with its place. Exit code 1 where something
    certain or likely was found, 0 where nothing was, or only what may be meant so.

    Example: vaekit doctor model.safetensors outputs/*.png
    """
    from vaekit import doctor as library
    from vaekit import images

    if not sources and not device:
        raise OptionError("name VAEs, checkpoints or pictures to look at, or --device to try this machine's devices")
    common.refuse_idle({"--max-pixels": (device and max_pixels is not None, "--device looks at no picture of yours")})
    paths = library.sources(sources or ["mini"])
    other = Path(decoder).expanduser() if decoder else None
    track = _track if len(paths) == 1 else iter
    report: list[Examination] = []

    def work(path: Path) -> None:
        if device:
            report.append(library.examine_devices(path, decoder=other, track=track))
        else:
            limit = images.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
            report.append(library.examine(path, decoder=other, max_pixels=limit, track=track))

    code = common.each(paths, "examining", work)
    if as_json:
        common.print_json([examination.to_dict() for examination in report])
    else:
        typer.echo("\n\n".join(map(_text, report)))
    raise typer.Exit(code or (0 if all(examination.healthy for examination in report) else FAULTY))


def _track(items: Sequence[Any]) -> Iterator[Any]:
    return common.track(items, "examining")


def _text(examination: Examination) -> str:
    count = len(examination.findings)
    told = {0: "nothing found", 1: "1 finding"}.get(count, f"{count} findings")
    lines = [f"{examination.source}: {told}", *_numbers(examination)]
    for finding in examination.findings:
        lines += [f"  {finding.sure:<9}{finding.what} ({finding.where})", f"{'':11}{finding.advice}"]
    return "\n".join([*lines, *(f"  not looked at: {skipped}" for skipped in examination.skipped)])


def _numbers(examination: Examination) -> Iterator[str]:
    """The measured numbers that people want beside the findings."""
    measured = examination.measured
    if "activations" in measured and measured["activations"]["of_float16"] is not None:
        activations = measured["activations"]
        share = activations["of_float16"]
        yield f"  layers reach {share:.2%} of float16's limit, most at {activations['worst_layer']}"
    if "sample_photos" in measured:
        photos = measured["sample_photos"]
        gains = ", ".join(f"{name} {photos[name]:.2f}" for name in ("contrast", "saturation") if photos[name])
        shifts = f"green–magenta {photos['green_magenta']:+.1f}, blue–yellow {photos['blue_yellow']:+.1f}"
        yield f"  sample photos come back at {photos['psnr']:.1f} dB, {gains}, {shifts}"
    for trial in measured.get("trials", ()):
        yield f"  {trial['device']:<8}{trial['dtype']:<10}{trial['direction']:<8}{_outcome(trial)}"


def _outcome(trial: dict[str, Any]) -> str:
    if trial["problem"]:
        return f"cannot be run: {trial['problem']}"
    if trial["overflowed"]:
        return "NaN or infinity"
    close = "equal" if trial["identical"] else f"{trial['decibels']:.1f} dB"
    return f"{close}, {trial['seconds']:.3f} s"

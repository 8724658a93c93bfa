"""demo."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.cli import common

if TYPE_CHECKING:
    from vaekit.demo import DemoResult


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")] = Path("vaekit-demo"),
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Make a page of the bundled photo and VAEs.

    The photo, its latents channel by channel, what each VAE makes of them, measured.

    Example: vaekit demo -o my-demo
    """
    from vaekit.demo import run

    started = time.perf_counter()
    result = run(output, force=force, progress=logging.getLogger("vaekit").info)
    if as_json:
        common.print_json(result.to_dict())
        return
    _print_result(result)
    typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Open {result.page} in a browser.")


def _print_result(result: DemoResult) -> None:
    for journey in result.journeys:
        typer.echo(str(journey.shrinkage))
    rows = [(back.name, back.quality, f"{back.seconds:.2f}") for j in result.journeys for back in j.reconstructions]
    rows.append(("shrunk and enlarged, no VAE", result.baseline, ""))
    cells = [(name, f"{q.psnr:.2f}", f"{q.ssim or 0.0:.3f}", f"{q.ciede2000:.2f}", s) for name, q, s in rows]
    common.print_table(("decoded by", "PSNR dB", "SSIM", "CIEDE2000", "seconds"), cells)

"""bench."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli import common


def bench(
    vae: Annotated[
        str | None, typer.Option("--vae", help="Measure this VAE; else random weights of Stable Diffusion's size.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="Of random weights: kl or tiny.")] = "kl",
    direction: Annotated[
        list[str] | None, typer.Option("--direction", help="encode or decode; both unless one is named.")
    ] = None,
    side: Annotated[int, typer.Option("--side", help="Of the pictures, in pixels.")] = 512,
    batch: Annotated[int, typer.Option("--batch", help="Pictures at once.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", help="Runs of each peer, alternating.")] = 5,
    growth: Annotated[bool, typer.Option("--growth", help="Also from 256 to 2048 pixels and batches to 16.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also the peak of each, in a process of its own.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes minutes to get ready.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write table, plot and JSON to a folder.")
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Measure how fast a VAE is here, beside its peers.

    Everything installed that can run it, in one run, alternating: medians, agreement, memory.

    Example: vaekit bench --quick -o bench/
    """
    from vaekit.bench import Settings, run
    from vaekit.bench.measuring import COLUMNS, cells, write

    common.refuse_idle({"--kind": (vae is not None and kind != "kl", "the VAE tells its own")})
    chosen = tuple(direction or ("decode", "encode"))
    settings = Settings(vae, kind, chosen, side, batch, rounds, growth, memory, quick)
    result = run(settings, logging.getLogger("vaekit").info)
    paths = write(result, output, force=force) if output else []
    if as_json:
        common.print_json(result.to_dict())
    else:
        common.print_table(COLUMNS, [cells(row) for row in result.rows])
        for path in paths:
            typer.echo(str(path))
    if result.disagreeing:
        logging.getLogger("vaekit").warning("these do not agree with the others: %s", ", ".join(result.disagreeing))
        raise typer.Exit(1)

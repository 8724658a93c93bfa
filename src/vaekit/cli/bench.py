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
    device: common.Device = "auto",
    side: Annotated[
        list[int] | None, typer.Option("--side", help="Of the pictures, in pixels; 512 on a CPU, 512 to 2048 on a GPU.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", help="Pictures at once; 1 on a CPU, 1, 4 and 16 on a GPU.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Runs of each peer, alternating.")] = 5,
    growth: Annotated[
        bool, typer.Option("--growth", help="Also from 256 to 2048 pixels and batches to 16, on a CPU.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="On a CPU also the peak of each, in a process of its own.")
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

    A GPU is timed by its own clock, and each peak is that of its memory.

    Example: vaekit bench --quick -o bench/
    """
    from vaekit.bench import Settings, run
    from vaekit.bench.measuring import COLUMNS, GROWTH_COLUMNS, cells, growth_cells, write

    common.refuse_idle({"--kind": (vae is not None and kind != "kl", "the VAE tells its own")})
    chosen = tuple(direction or ("decode", "encode"))
    sizes = (tuple(side or ()), tuple(batch or ()))
    settings = Settings(vae, kind, chosen, device, *sizes, rounds, growth, memory, quick)
    result = run(settings, logging.getLogger("vaekit").info)
    paths = write(result, output, force=force) if output else []
    if as_json:
        common.print_json(result.to_dict())
    else:
        common.print_table(COLUMNS, [cells(row) for row in result.rows])
        if growth:
            common.print_table(GROWTH_COLUMNS, [growth_cells(one) for one in result.growth])
        for path in paths:
            typer.echo(str(path))
    for failure in result.out_of_memory:
        logging.getLogger("vaekit").warning("out of memory: %s", failure)
    if result.disagreeing:
        logging.getLogger("vaekit").warning("these do not agree with the others: %s", ", ".join(result.disagreeing))
        raise typer.Exit(1)

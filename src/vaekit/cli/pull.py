"""vae pull, vae search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.cli import common

if TYPE_CHECKING:
    from vaekit.catalog.download import Progress
    from vaekit.catalog.search import Hit
    from vaekit.checkpoints.inspect import Inspection


def pull(
    vae: Annotated[
        str,
        typer.Argument(
            metavar="VAE", help="Name in the catalog, hf:REPO[/FILE], civitai:MODEL[@VERSION], or an address."
        ),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Put it here instead of vaekit's own folder.")
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Fetch a VAE, resumed where it broke off and checked against its published hash.

    Tokens: HF_TOKEN or `hf auth login`; CIVITAI_API_TOKEN or `keyring set vaekit civitai`.

    Example: vaekit vae pull ft-mse
    """
    from vaekit.catalog.pull import pull as fetch
    from vaekit.checkpoints.inspect import inspect

    with _bar() as progress:
        path = fetch(vae, to, force=force, progress=progress)
    found = inspect(path)
    if as_json:
        common.print_json({"path": str(path), "holds": [entry.to_dict() for entry in found]})
    else:
        typer.echo("\n".join([str(path), *map(_text, found)]))


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="All of them have to fit.")],
    base: Annotated[str | None, typer.Option("--base", help="Of one family only: sd1, sdxl, flux1 …")] = None,
    limit: Annotated[int, typer.Option("--limit", help="So many at most.")] = 20,
    as_json: common.Json = False,
) -> None:
    """Look for VAEs on Civitai and the Hugging Face hub.

    `vaekit vae pull` takes what stands in the first line of each.

    Example: vaekit vae search anime --base sd1
    """
    from vaekit.catalog.search import search as look

    hits = look(" ".join(words), base=base, limit=limit)
    if as_json:
        common.print_json([hit.to_dict() for hit in hits])
    elif not hits:
        typer.echo("nothing found; fewer words find more", err=True)
    else:
        typer.echo("\n\n".join(map(_text_of_hit, hits)))


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on standard error for each file, which goes when all is done."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield report


def _text(entry: Inspection) -> str:
    config, families = entry.identity.config, entry.identity.families
    halves = " and ".join(half for half in ("encoder", "decoder") if getattr(config, f"has_{half}"))
    named = " or ".join(family.name for family in families) or "family unknown"
    return f"{named} (by {entry.identity.evidence}), {config.kind}, {halves}, {entry.size / 1e6:.1f} MB"


def _text_of_hit(hit: Hit) -> str:
    from vaekit.catalog.library import printable

    size = f"{hit.size / 1e6:.1f} MB" if hit.size else "size unknown"
    facts = (hit.name, f"base model {hit.base}", f"{hit.downloads} downloads", size, f"licence {hit.licence}")
    links = [f"preview {hit.preview}"] if hit.preview else []
    return f"{hit.target}\n  " + "\n  ".join(map(printable, [" · ".join(facts), hit.page, *links]))

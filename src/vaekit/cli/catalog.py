"""vae list, vae show, which, prefer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import common, pull

if TYPE_CHECKING:
    from vaekit.catalog import CatalogEntry, Entry, Library, Resolution

app = typer.Typer(help="VAEs on this disk and in the catalog of published ones.", no_args_is_help=True)

Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--models", metavar="DIR", help="Look here too: a folder, an installation, an extra_model_paths.yaml."
    ),
]
Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Path, or exact name, of a checkpoint.")]


@app.command("list")
def list_vaes(
    models: Models = None,
    family: Annotated[str | None, typer.Option("--family", help="Those that can belong to this one only.")] = None,
    fingerprints: Annotated[
        bool, typer.Option("--fingerprints", help="Read every VAE's weights, once: tells copies and published ones.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="List what is no VAE and no checkpoint too.")] = False,
    published: Annotated[bool, typer.Option("--catalog", help="List the published VAEs that vaekit knows.")] = False,
    as_json: common.Json = False,
) -> None:
    """List the VAEs and checkpoints on this disk.

    In the folders of A1111, Forge, ComfyUI and SD.Next, the hub's cache, --models and VAEKIT_MODELS.

    Example: vaekit vae list --models /data/models --family sdxl
    """
    from vaekit import families
    from vaekit.catalog import catalog

    wanted = families.family(family).name if family else None
    if published:
        _print_catalog([e for e in catalog() if wanted in (None, e.family)], as_json)
        return
    library = _library(models)
    if fingerprints:
        library.fingerprint_all(_track)
    kinds = ("vae", "checkpoint", "broken", "unfinished", *(("other",) if everything else ()))
    entries = [e for e in library.entries if e.kind in kinds and (wanted is None or wanted in e.families)]
    if as_json:
        common.print_json({"entries": [_with_copies(library, entry) for entry in entries]})
    else:
        _print_entries(library, entries)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Exact name on this disk or in the catalog, or a path.")],
    models: Models = None,
    as_json: common.Json = False,
) -> None:
    """Tell what is known of one VAE or checkpoint.

    What it looks like, whose it is, where to get it; its files on this disk.

    Example: vaekit vae show ft-mse
    """
    from vaekit.catalog import as_asked

    library = _library(models)
    entries, published = library.about(as_asked(name))
    if as_json:
        told = published.to_dict() if published else None
        common.print_json({"catalog": told, "entries": [_with_copies(library, entry) for entry in entries]})
        return
    blocks = [_text_of_published(published)] if published else []
    typer.echo("\n\n".join(blocks + [_text_of_entry(library, entry) for entry in entries]))


app.command("pull")(pull.pull)
app.command("search")(pull.search)


def which(
    checkpoint: Checkpoint,
    vae: Annotated[
        str, typer.Option("--vae", help="Automatic, None, or the exact name or path of a VAE.")
    ] = "Automatic",
    models: Models = None,
    as_json: common.Json = False,
) -> None:
    """Tell which VAE a checkpoint gets, and why.

    A named VAE, else the preferred one, else a file with the checkpoint's name, else the baked one, else the standard.

    Example: vaekit which dreamshaper.safetensors --vae Automatic
    """
    from vaekit.catalog import as_asked, resolve

    found = resolve(as_asked(checkpoint), as_asked(vae), library=_library(models))
    if as_json:
        common.print_json(found.to_dict())
    else:
        _print_resolution(found)


def prefer(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="CHECKPOINT", help="Path, or exact name; without it, list what is stored.")
    ] = None,
    vae: Annotated[
        str | None, typer.Argument(metavar="VAE", help="Name or path, None for the baked one, Automatic to forget.")
    ] = None,
    models: Models = None,
    as_json: common.Json = False,
) -> None:
    """Store which VAE you prefer for a checkpoint.

    `vaekit which` and everything that picks a VAE by itself follows it.

    Example: vaekit prefer dreamshaper.safetensors ft-mse
    """
    from vaekit.catalog import Preferences, as_asked, resolve
    from vaekit.catalog import prefer as store

    if checkpoint is None:
        _print_preferences({str(path): str(choice) for path, choice in Preferences().all().items()}, as_json)
        return
    library = _library(models)
    asked = as_asked(checkpoint)
    found = resolve(asked, library=library) if vae is None else store(asked, as_asked(vae), library=library)
    if as_json:
        common.print_json(found.to_dict())
    else:
        _print_resolution(found)


def _library(models: list[Path] | None) -> Library:
    from vaekit.catalog import places, scan

    return scan(places(models or []), track=_track)


def _track(items: Sequence[Any], what: str) -> Iterable[Any]:
    """With a bar where somebody sees it."""
    return common.track(items, what) if sys.stderr.isatty() else items


# Printing


def _with_copies(library: Library, entry: Entry) -> dict[str, Any]:
    from vaekit.catalog.library import printable

    return entry.to_dict() | {"copies": [printable(other.path) for other in library.copies(entry)]}


def _print_entries(library: Library, entries: list[Entry]) -> None:
    groups = library.groups(entry for entry in entries if entry.kind == "vae")
    rows = [(_names(group), *_cells(group[0])) for group in groups]
    columns = ("family", "dtype", "MB", "in the catalog", "where")
    common.print_table(("VAE", *columns), rows)
    checkpoints = [(_shown(e.name), *_cells(e), _baked(library, e)) for e in entries if e.kind == "checkpoint"]
    if checkpoints:
        typer.echo("")
        common.print_table(("checkpoint", *columns, "baked VAE"), checkpoints)
    others = [_plain(f"{e.kind}: {e.path}: {e.facts.note}") for e in entries if e.kind not in ("vae", "checkpoint")]
    if others:
        typer.echo("\n" + "\n".join(others))
    _print_hints(library, entries)


def _print_hints(library: Library, entries: list[Entry]) -> None:
    hidden = len(library.of_kind("other")) - sum(entry.kind == "other" for entry in entries)
    if hidden:
        typer.echo(f"\n{hidden} more hold something else (LoRAs, text encoders …); --all lists them")
    unread = [e for e in entries if e.facts.has_vae and not e.fingerprint and e.kind in ("vae", "checkpoint")]
    if unread:
        typer.echo(f"\n{len(unread)} VAEs were not read yet; --fingerprints does it once, and tells which are the same")


def _names(group: list[Entry]) -> str:
    return "\n= ".join(_shown(entry.name) for entry in group)


def _cells(entry: Entry) -> tuple[str, str, str, str, str]:
    families = " or ".join(entry.families) or "?"
    dtypes = ", ".join(entry.facts.dtypes)
    return _shown(families), dtypes, f"{entry.size / 1e6:.1f}", entry.known or "", _shown(entry.program)


def _baked(library: Library, entry: Entry) -> str:
    same = next((copy.known or copy.name for copy in library.copies(entry) if copy.kind == "vae"), None)
    return _shown(f"= {same}" if same else "yes" if entry.facts.has_vae else "none")


def _print_catalog(entries: list[CatalogEntry], as_json: bool) -> None:
    if as_json:
        common.print_json([entry.to_dict() for entry in entries])
        return
    rows = [(e.name, e.family, f"{e.size / 1e6:.1f}" if e.size else "", _shown(e.licence)) for e in entries]
    common.print_table(("VAE", "family", "MB", "licence"), rows)
    typer.echo("\nvaekit vae show NAME tells what it looks like and where it comes from")


def _text_of_published(entry: CatalogEntry) -> str:
    lines = {
        "name": ", ".join((entry.name, *entry.aliases)),
        "title": f"{entry.title} ({entry.publisher})",
        "family": entry.family + (", its standard VAE" if entry.standard else ""),
        "looks": entry.look,
        "licence": entry.licence,
        "page": entry.home or "",
        "from": "ships with vaekit" if entry.bundled else ", ".join(file.source for file in entry.files),
        "size": f"{entry.size / 1e6:.1f} MB" if entry.size else "",
        "SHA-256": ", ".join(file.sha256 for file in entry.files if file.sha256),
    }
    return _block(lines)


def _text_of_entry(library: Library, entry: Entry) -> str:
    facts = entry.facts
    halves = " and ".join(half for half, there in (("encoder", facts.encoder), ("decoder", facts.decoder)) if there)
    lines = {
        "file": f"{entry.path} ({entry.size / 1e6:.1f} MB)",
        "decoder in": str(entry.decoder or ""),
        "kind": facts.kind + (f" ({facts.network}, {halves})" if facts.has_vae else ""),
        "family": (" or ".join(entry.families) or "unknown") + (f" (by {facts.evidence})" if facts.evidence else ""),
        "dtypes": ", ".join(facts.dtypes),
        "fingerprint": entry.fingerprint or "",
        "SHA-256": entry.sha256 or "",
        "same as": ", ".join(str(other.path) for other in library.copies(entry)),
        "note": facts.note,
    }
    return _block(lines)


def _print_resolution(found: Resolution) -> None:
    lines = {
        "checkpoint": str(found.checkpoint),
        "VAE": found.name + (f", known as {found.known}" if found.known not in (None, found.name) else ""),
        "file": str(found.path or "not on this disk"),
        "decoder in": str(found.decoder or ""),
        "family": " or ".join(found.families) or "unknown",
        "fingerprint": found.fingerprint or "",
        "SHA-256": found.sha256 or "",
        "why": f"{found.source}: {found.reason}",
    }
    passed = "".join(f"\npassed over  {_plain(f'{each.rule}: {each.reason}')}" for each in found.passed_over)
    typer.echo(_block(lines) + passed)


def _print_preferences(stored: dict[str, str], as_json: bool) -> None:
    if as_json:
        common.print_json({_plain(checkpoint): _plain(choice) for checkpoint, choice in stored.items()})
    else:
        common.print_table(("checkpoint", "VAE"), [(_shown(path), _shown(choice)) for path, choice in stored.items()])


def _block(lines: dict[str, str]) -> str:
    return "\n".join(f"{name:<13}{_plain(text)}" for name, text in lines.items() if text)


def _plain(text: object) -> str:
    from vaekit.catalog.library import printable

    return printable(str(text))


def _shown(text: object) -> str:
    """For a table: rich takes [brackets] for its own."""
    from rich.markup import escape

    return escape(_plain(text))

"""compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import common
from vaekit.cli.catalog import Models
from vaekit.errors import FamilyError, OptionError, VaekitError

if TYPE_CHECKING:
    from vaekit.catalog import Entry
    from vaekit.latents import Latents
    from vaekit.quality.result import Comparison, Table
    from vaekit.vae import VAE

FAMILY = "mini"
"""Whose VAEs are compared where nothing says otherwise."""

LATENTS_SUFFIXES = (".safetensors", ".latent", ".npz", ".npy", ".pt", ".pth")

CLOSE = ("psnr", "ssim", "ms_ssim", "ciede2000", "lpips", "bits_per_pixel", "encode_seconds", "decode_seconds")
LOOK = ("brightness", "contrast", "saturation", "green_magenta", "blue_yellow", "edges")


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCES", help="Pictures, or latents: files, globs or folders.")
    ],
    vae: Annotated[
        list[str] | None,
        typer.Option("--vae", help="Give it several times. Without it: all of one family on this disk."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")] = Path("vaekit-compare"),
    charts: Annotated[
        bool | None, typer.Option("--charts/--no-charts", help="64 colours and small text too (with pictures: yes).")
    ] = None,
    round_trips: Annotated[int, typer.Option("--round-trips", help="Encode and decode so often.")] = 1,
    models: Models = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Without --vae: whose VAEs. With it: the latent space of files that tell none."),
    ] = None,
    alpha: common.Alpha = "keep",
    max_pixels: common.MaxPixels = None,
    unscaled: common.Scaled = None,
    device: common.Device = "auto",
    dtype: common.MeasuringDtype = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Compare VAEs side by side.

    Writes a report with a slider, the places where they differ most, and measures; sheets, JSON and CSV beside it.

    Example: vaekit compare photos/ --vae mini --vae vae-ft-mse-840000.safetensors -o comparison
    """
    from vaekit.quality import folder
    from vaekit.quality.compare import compare_into

    folder.check(output, force=force)
    paths, are_latents = _find(sources)
    common.refuse_idle(
        {
            "--models": (bool(models and vae), "--vae names what is compared"),
            "--unscaled and --scaled": (unscaled is not None and not are_latents, "these are pictures"),
            "--alpha": (alpha != "keep" and are_latents, "these are latents"),
            "--max-pixels": (max_pixels is not None and are_latents, "these are latents"),
        }
    )
    dtype = common.measuring(dtype)
    named = _load_named(vae, family, device, dtype)
    scaled = None if unscaled is None else not unscaled
    code, inputs = _latents(paths, scaled, family, named) if are_latents else (0, _labelled(paths))
    if not named:
        wanted = family or next((one.family.name for one in inputs.values() if not isinstance(one, Path)), FAMILY)
        named = _load_all(wanted, models, device, dtype)

    def failed(error: VaekitError) -> None:
        nonlocal code
        print(f"vaekit: {error}", file=sys.stderr)
        code = max(code, error.exit_code)

    options = common.picture_options(alpha, max_pixels)
    comparison = compare_into(
        output,
        inputs,
        named,
        with_charts=charts,
        round_trips=round_trips,
        force=force,
        failed=failed,
        track=common.track,
        **options,
    )
    if as_json:
        common.print_json({"folder": str(output), "page": str(output / folder.PAGE)} | comparison.to_dict())
    else:
        _print(comparison, output / folder.PAGE)
    raise typer.Exit(code)


def _find(sources: list[str]) -> tuple[list[Path], bool]:
    """The files, and whether they are latents."""
    from vaekit import images

    paths = images.find(sources, suffixes=(*images.SUFFIXES, *LATENTS_SUFFIXES))
    latents = [path for path in paths if path.suffix.lower() in LATENTS_SUFFIXES]
    if latents and len(latents) < len(paths):
        raise OptionError(f"{latents[0]} holds latents, the others are pictures; compare them one by one")
    return paths, bool(latents)


def _labelled(paths: list[Path]) -> dict[str, Any]:
    from vaekit.quality.naming import distinct

    return dict(zip(distinct([str(path) for path in paths]), paths, strict=True))


def _latents(
    paths: list[Path], scaled: bool | None, family: str | None, vaes: dict[str, VAE]
) -> tuple[int, dict[str, Latents]]:
    """The exit code of what cannot be read, and the rest; one that tells no family is taken as the first VAE's."""
    from vaekit.latents import Latents

    read: dict[str, Latents] = {}

    def work(item: tuple[str, Path]) -> None:
        name, path = item
        if vaes:
            read[name] = next(iter(vaes.values())).load_latents(path, scaled=scaled)
        else:
            read[name] = Latents.load(path, scaled=scaled, family=family)

    code = common.each(list(_labelled(paths).items()), "reading", work)
    if not read:
        raise OptionError("none of these latents can be read")
    return code, read


def _load_named(names: list[str] | None, family: str | None, device: str, dtype: str | None) -> dict[str, VAE]:
    from vaekit.quality.naming import distinct

    names = names or []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise OptionError(f"--vae {twice} is given twice")
    labels = zip(distinct(names), names, strict=True)
    return {label: common.load_vae(name, None, family, None, device, dtype) for label, name in labels}


def _load_all(family: str, models: list[Path] | None, device: str, dtype: str | None) -> dict[str, VAE]:
    """Every VAE of a family on this disk that decodes, copies once; one that cannot be loaded is told and left out."""
    from vaekit import families
    from vaekit.catalog import places, scan
    from vaekit.loading import load

    wanted = families.family(family).name
    library = scan(places(models or []))
    entries = [group[0] for group in library.groups(e for e in library.vaes if e.families == (wanted,))]
    loaded: dict[str, VAE] = {}

    def work(entry: Entry) -> None:
        loaded[entry.name] = load(entry.path, decoder=entry.decoder, family=wanted, device=device, dtype=dtype)

    common.each([entry for entry in entries if entry.facts.decoder], "loading VAEs", work)
    if not loaded:
        raise FamilyError(f"no VAE of {wanted} is on this disk; name some with --vae, or folders with --models")
    return loaded


def _print(comparison: Comparison, page: Path) -> None:
    for names in comparison.copies():
        typer.echo(f"{' and '.join(names)} have the same weights.")
    for table in comparison.tables():
        _print_table(table, CLOSE, words=False)
        _print_table(table, LOOK, words=True)
    if comparison.round_trips > 1:
        for table in comparison.tables(comparison.round_trips):
            _print_table(table, (*CLOSE[:5], *LOOK), words=False, after=comparison.round_trips)
    typer.echo(f"Measured against {comparison.reference}. Open {page} in a browser.")


def _print_table(table: Table, keys: tuple[str, ...], *, words: bool, after: int = 1) -> None:
    from vaekit.quality.measures import MEASURES, in_words

    present = table.keys()
    shown = [measure for measure in MEASURES if measure.key in keys and measure.key in present]
    title = table.title + (f", after {after} round trips" if after > 1 else "")
    rows = [
        (name, *(measure.text(row[measure.key]) for measure in shown), *([in_words(row)] if words else []))
        for name, row in table.rows.items()
    ]
    common.print_table((title, *(measure.title for measure in shown), *(["look"] if words else [])), rows)
    typer.echo("")

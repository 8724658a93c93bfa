"""extract, convert, bake, diff."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import common

if TYPE_CHECKING:
    from vaekit.checkpoints.difference import Difference
    from vaekit.checkpoints.extract import Extracted, Form
    from vaekit.checkpoints.write import Progress

LayoutName = Annotated[
    str | None, typer.Option("--layout", help="ldm or diffusers; flux for FLUX.2, taesd for tiny ones. Kept if absent.")
]
DtypeName = Annotated[
    str | None, typer.Option("--dtype", help="Of the VAE: float32, bfloat16 or float16. Kept if absent.")
]
Alone = Annotated[
    Path | None, typer.Option("--output", "-o", help="A .safetensors file; with --layout diffusers also a folder.")
]


def extract(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint or a diffusers pipeline.")],
    output: Alone = None,
    layout: LayoutName = None,
    dtype: DtypeName = None,
    family: common.FamilyName = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Take the VAE out of a checkpoint.

    NAME.vae.safetensors in the working folder, unless -o says otherwise.

    Example: vaekit extract model.safetensors -o VAE.safetensors --dtype float16
    """
    from vaekit.checkpoints.extract import extract
    from vaekit.loading import find

    source = find(checkpoint)
    goal = output or Path(f"{common.stem(source)}.vae.safetensors")
    with _bar("extracting") as progress:
        done = extract(source, goal, _form(layout, dtype, family), force=force, progress=progress)
    _print_extracted(done, as_json)


def convert(
    vae: Annotated[str, typer.Argument(metavar="VAE", help="A VAE file or a diffusers folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="As for extract.")],
    layout: LayoutName = None,
    dtype: DtypeName = None,
    family: common.FamilyName = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Write a VAE in another layout or dtype, always as safetensors.

    Exact in both directions, but for dtypes that hold fewer digits.

    Example: vaekit convert VAE.ckpt --layout diffusers -o pipeline/vae
    """
    from vaekit.checkpoints.extract import convert
    from vaekit.loading import find

    with _bar("converting") as progress:
        done = convert(find(vae), output, _form(layout, dtype, family), force=force, progress=progress)
    _print_extracted(done, as_json)


def bake(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, with or without a VAE.")],
    vae: Annotated[str, typer.Option("--vae", help="The VAE to put in: a name or path, also of another checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    dtype: DtypeName = None,
    any_family: Annotated[bool, typer.Option("--any-family", help="Even a VAE of another latent space.")] = False,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Put a VAE into a checkpoint, or into a diffusers folder, which becomes one file.

    Everything else is copied bit for bit; the result is read back before it gets its name.

    Example: vaekit bake model.ckpt --vae vae-ft-mse-840000.safetensors -o model-mse.safetensors
    """
    from vaekit.checkpoints.bake import bake
    from vaekit.loading import find

    with _bar("baking") as progress:
        done = bake(
            find(checkpoint),
            find(vae),
            output,
            dtype=_dtype(dtype),
            any_family=any_family,
            force=force,
            progress=progress,
        )
    if as_json:
        common.print_json(done.to_dict())
        return
    typer.echo(
        f"{done.path}  ({done.size / 1e9:.2f} GB: {done.kept} tensors kept bit for bit, {done.replaced} replaced by "
        f"{done.written} of the VAE, {_dtypes(done.dtypes)}{_rounded(done.rounded)})"
    )
    typer.echo(f"SHA-256 {done.sha256}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A VAE or checkpoint.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    everything: Annotated[
        bool, typer.Option("--all", help="All tensors of two files by their names there, not the VAEs alone.")
    ] = False,
    as_json: common.Json = False,
) -> None:
    """Tell which tensors of two VAEs differ, and how much.

    Whatever their layouts, dtypes and containers, alone or baked into checkpoints.

    Example: vaekit diff model.safetensors vae-ft-mse-840000.safetensors
    """
    from vaekit.checkpoints.difference import diff, diff_files
    from vaekit.loading import find

    found = (diff_files if everything else diff)(find(a), find(b))
    if as_json:
        common.print_json({"a": a, "b": b, **found.to_dict()})
    else:
        _print_difference(found, everything)


def _form(layout: str | None, dtype: str | None, family: str | None) -> Form:
    from vaekit.checkpoints.extract import Form

    return Form(layout, _dtype(dtype), family)  # type: ignore[arg-type]


def _dtype(name: str | None) -> Any:
    from vaekit.engine.placement import parse_dtype

    return None if name is None else parse_dtype(name)


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A progress bar on standard error that goes when it is done."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_extracted(done: Extracted, as_json: bool) -> None:
    if as_json:
        common.print_json(done.to_dict())
        return
    left = f", {done.left} others left" if done.left else ""
    typer.echo(
        f"{done.path}  ({done.size / 1e6:.1f} MB: {done.tensors} tensors{left}, {done.layout} layout, "
        f"{_dtypes(done.dtypes)}{_rounded(done.rounded)}, family {done.family or 'not known'})"
    )
    typer.echo(f"SHA-256 {done.sha256}")


def _dtypes(counts: Any) -> str:
    return " and ".join(counts)


def _rounded(count: int) -> str:
    return f", {count} of them rounded" if count else ""


def _print_difference(found: Difference, everything: bool) -> None:
    rows = [
        (
            t.name,
            t.status,
            " → ".join(d or "–" for d in dict.fromkeys(t.dtypes)),
            *map(_number, (t.l2, t.norm, t.relative, t.largest)),
        )
        for t in found.tensors
        if t.status != "same"
    ]
    if rows:
        columns = ("tensor", "", "dtype", "norm of A − B", "norm of A", "relative", "largest")
        common.print_table(columns, rows)
    if everything:
        typer.echo(f"files: {found}")
        return
    for half in ("encoder", "decoder"):
        if found.half(half).tensors:
            typer.echo(f"{half}: {found.half(half)}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"

"""Options that several commands share, and how they print."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from vaekit.errors import OptionError, VaekitError
from vaekit.files import check_target
from vaekit.overlap import attempt

if TYPE_CHECKING:
    from vaekit.engine.strips.running import Progress as StripProgress
    from vaekit.vae import VAE

T = TypeVar("T")

Vae = Annotated[str, typer.Option("--vae", help="Bundled name, or path of a VAE, a diffusers folder or a checkpoint.")]
DecoderFile = Annotated[str | None, typer.Option("--decoder", help="Take the decoder from this file (TAESD).")]
FamilyName = Annotated[str | None, typer.Option("--family", help="Latent space, where the file leaves it open.")]
Padding = Annotated[
    str | None, typer.Option("--padding", help="zeros; reflect for EQ-VAEs trained so; circular: seamless.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
DtypeName = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; picked and told.")]
MeasuringDtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, since this measures; else bfloat16 or float16.")
]
EngineName = Annotated[
    str, typer.Option("--engine", help="auto, torch, openvino; reference: the plain network, not optimised.")
]
QualityName = Annotated[
    str, typer.Option("--quality", help="full; fast: int8 with OpenVINO on a CPU, 40 dB or more against float32.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A file, or a folder for several inputs.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Alpha = Annotated[str, typer.Option("--alpha", help="keep transparency aside, or composite on a colour (white).")]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", help="Refuse larger pictures (default 178956970).")]
Memory = Annotated[str | None, typer.Option("--memory", help="At most so much: 2GiB, 800MiB; else half of the free.")]
Window = Annotated[
    int | None,
    typer.Option("--attention-window", help="Approximate: cells look at so many rows of cells around. For huge ones."),
]
Latents = Annotated[list[str], typer.Argument(metavar="LATENTS", help="Files, globs or folders.")]
Scaled = Annotated[
    bool | None, typer.Option("--unscaled/--scaled", help="For bare tensors: raw, or scaled as samplers see them.")
]
Pictures = Annotated[list[str], typer.Argument(metavar="PICTURES", help="Files, globs or folders.")]


def measuring(dtype: str | None) -> str | None:
    """The dtype of a command that measures VAEs: float32, whatever is fastest here; VAEKIT_DTYPE says otherwise."""
    from vaekit.engine.placement import USUAL_DTYPE

    return dtype or (None if os.environ.get(USUAL_DTYPE) else "float32")


def load_vae(
    source: str,
    decoder: str | None,
    family: str | None,
    padding: str | None,
    device: str,
    dtype: str | None,
    engine: str = "auto",
    quality: str = "full",
    window: int | None = None,
) -> VAE:
    """The VAE that the shared options name."""
    from vaekit.loading import load

    places = {"device": device, "dtype": dtype, "engine": engine, "quality": quality, "attention_window": window}
    return load(source, decoder=decoder, family=family, padding=padding, **places)  # type: ignore[arg-type]


def picture_options(alpha: str, max_pixels: int | None) -> dict[str, Any]:
    """Keyword arguments for VAE.encode."""
    if max_pixels is not None and max_pixels < 1:
        raise OptionError("--max-pixels takes a positive number")
    return {"alpha": alpha} | ({"max_pixels": max_pixels} if max_pixels is not None else {})


def targets(sources: Sequence[Path], output: Path | None, ending: str, *, force: bool) -> dict[Path, Path]:
    """Where each source's result goes, checked before any work is done.

    No output: beside nothing, in the working folder, under the source's stem
    with `ending`. A folder (it exists, or several sources): the same in there.
    Raises OutputError, and OptionError where two results would share a name.
    """
    into_folder = output is None or output.is_dir() or len(sources) > 1
    if output is not None and not into_folder:
        chosen = {sources[0]: output}
    else:
        folder = output or Path()
        chosen = {source: folder / (stem(source) + ending) for source in sources}
    twice = [str(path) for path, count in Counter(chosen.values()).items() if count > 1]
    if twice:
        raise OptionError(f"two inputs would both become {twice[0]}; run them one by one with -o")
    for target in chosen.values():
        check_target(target, force=force)
    return chosen


def picture_targets(sources: Sequence[Path], output: Path | None, ending: str, *, force: bool) -> dict[Path, Path]:
    """`targets` for results that are pictures: a format that nobody writes is refused now and not after the work."""
    from vaekit import images

    chosen = targets(sources, output, ending, force=force)
    for target in chosen.values():
        images.check_format(target)
    return chosen


def latents_files(patterns: list[str]) -> list[Path]:
    """The files that patterns name: as for pictures, with the endings of latents in folders."""
    from vaekit import images

    return images.find(patterns, suffixes=(".safetensors", ".latent", ".npz", ".npy", ".pt", ".pth"))


def numbered(path: Path, count: int) -> list[Path]:
    """One path, or one for each of several: photo-0.png, photo-1.png …"""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(count)]


def stem(path: Path) -> str:
    """A file's name without its endings: photo of photo.jpg, of photo.latents.safetensors and of photo.latent."""
    name = path.name
    for ending in (".latents.safetensors", path.suffix):
        if ending and name.endswith(ending):
            return name.removesuffix(ending)
    return name


def each(items: Sequence[T], what: str, work: Callable[[T], None]) -> int:
    """Do the work for each item, with a progress bar; a bad one is told and the others go on. Gives the exit code.

    A single item's error is left to the caller, so that it is told once.
    """
    return gather((attempt(work, item) for item in items), len(items), what)[1]


def gather(results: Iterable[T | VaekitError], count: int, what: str) -> tuple[list[T], int]:
    """What comes of `count` items, with a progress bar, and the exit code; errors as in `each`."""
    good, code = [], 0
    for result in track(results, what, count) if count > 1 else results:
        if not isinstance(result, VaekitError):
            good.append(result)
        elif count == 1:
            raise result
        else:
            print(f"vaekit: {result}", file=sys.stderr)
            code = max(code, result.exit_code)
    return good, code


def track(items: Iterable[T], what: str, count: int | None = None) -> Iterator[T]:
    """The items, `count` of them, with a progress bar on standard error that goes when it is done."""
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, what, count, console=Console(stderr=True), transient=True)


@contextmanager
def strips_bar(what: str, *, alone: bool = True) -> Iterator[Callable[[StripProgress], None] | None]:
    """A progress bar on standard error that appears with the first strip; none where another stands there already."""
    if not alone:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: list[Any] = []

        def told(progress: StripProgress) -> None:
            if not tasks:
                tasks.append(bar.add_task(what, total=1.0))
            layer = f"{what}, pass {progress.number} of {progress.passes}, strip {progress.strip} of {progress.strips}"
            bar.update(tasks[0], completed=progress.share, description=layer)

        yield told


def print_json(value: object) -> None:
    from pydantic_core import to_json

    typer.echo(to_json(value, indent=2, inf_nan_mode="constants").decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on standard output; the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def refuse_idle(options: dict[str, tuple[bool, str]]) -> None:
    """Raise OptionError for the first option that would do nothing; each with the reason."""
    for name, (idle, reason) in options.items():
        if idle:
            raise OptionError(f"{name} would do nothing here: {reason}")

"""train vae, train diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli import common
from vaekit.errors import OptionError

app = typer.Typer(help="Train VAEs and small diffusion models by recipes.", no_args_is_help=True, rich_markup_mode=None)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Settings in TOML; see recipes/.")]
RunFolder = Annotated[Path, typer.Option("--run", help="Where state, log, curves and samples go; goes on from there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the new model, in the diffusers layout.")]


@app.command("vae")
def vae(
    recipe: RecipeFile,
    data: Annotated[
        list[str],
        typer.Option("--data", help="A folder of pictures, or FOLDER:SHARE of the crops; may be given again."),
    ],
    run: RunFolder,
    out: Out,
    device: common.Device = "auto",
    force: common.Force = False,
) -> None:
    """Train a VAE, or a tiny one for another's latents, by a recipe.

    Stop it when you like; the same command goes on at the same step. Progress
    stands in RUN/log.csv, RUN/curves.png and RUN/samples.png.

    Example: vaekit train vae recipes/mini.toml --data photos:0.8 --data drawings:0.2 --run runs/mini --out mini
    """
    from vaekit.train.vaes import train_vae

    folders = [_folder(text) for text in data]
    measured = train_vae(recipe, folders, run, out, device=device, force=force)
    typer.echo(f"{out}: " + ", ".join(f"{name} {value:.3f}" for name, value in measured.items()) + ", held out")


@app.command("diffusion")
def diffusion(
    recipe: RecipeFile,
    data: Annotated[Path, typer.Option("--data", help="A folder of pictures with captions.jsonl.")],
    run: RunFolder,
    out: Out,
    device: common.Device = "auto",
) -> None:
    """Train a small text-to-image model on pictures with names, by a recipe.

    Example: vaekit train diffusion recipes/mini-sd.toml --data emoji --run runs/mini-sd --out mini-sd
    """
    from vaekit.train.diffusions import train_diffusion

    train_diffusion(recipe, data, run, out, device=device)
    typer.echo(f"{out}: written")


def _folder(text: str) -> tuple[Path, float]:
    """FOLDER or FOLDER:SHARE."""
    name, colon, share = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return Path(text), 1.0
    try:
        value = float(share)
    except ValueError:
        return Path(text), 1.0
    if not 0 < value < float("inf"):
        raise OptionError(f"--data {text}: the share is a positive number")
    return Path(name), value

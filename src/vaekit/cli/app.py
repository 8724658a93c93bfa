"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli import codec, demo, inspect, latents
from vaekit.version import version as running_version

app = typer.Typer(
    name="vaekit",
    help="Stable Diffusion's VAEs: encode, decode, inspect and understand any of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vaekit {running_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from, with a traceback.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell warnings and errors only.")] = False,
) -> None:
    """The options above go before the command: vaekit --quiet encode photo.jpg"""


app.command("encode")(codec.encode)
app.command("decode")(codec.decode)
app.command("roundtrip")(codec.roundtrip)
app.command("inspect")(inspect.inspect)
app.add_typer(latents.app, name="latents")
app.command("demo")(demo.demo)

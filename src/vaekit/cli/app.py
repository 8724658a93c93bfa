"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli import (
    baked,
    bench,
    catalog,
    codec,
    compare,
    demo,
    doctor,
    generate,
    info,
    inspect,
    latents,
    plan,
    serve,
    train,
)
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
app.command("plan")(plan.plan)
app.command("txt2img")(generate.txt2img)
app.command("img2img")(generate.img2img)
app.command("info")(info.info)
app.command("compare")(compare.compare)
app.command("inspect")(inspect.inspect)
app.command("extract")(baked.extract)
app.command("convert")(baked.convert)
app.command("bake")(baked.bake)
app.command("diff")(baked.diff)
app.add_typer(catalog.app, name="vae")
app.command("which")(catalog.which)
app.command("prefer")(catalog.prefer)
app.add_typer(latents.app, name="latents")
app.add_typer(train.app, name="train")
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)

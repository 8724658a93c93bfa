"""The tree of commands."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "encode": ("codec", "Encode pictures to latents."),
    "decode": ("codec", "Decode latents to pictures."),
    "roundtrip": ("codec", "Encode and decode pictures, and measure the loss."),
    "plan": ("plan", "Show how a picture of any size would be run inside a memory budget."),
    "txt2img": ("generate", "Draw a picture by a prompt."),
    "img2img": ("generate", "Draw over a picture by a prompt."),
    "info": ("info", "Tell how a picture was drawn."),
    "compare": ("compare", "Compare VAEs side by side."),
    "inspect": ("inspect", "Tell which VAE a file holds, from its header."),
    "extract": ("baked", "Take the VAE out of a checkpoint."),
    "convert": ("baked", "Write a VAE in another layout or dtype, always as safetensors."),
    "bake": (
        "baked",
        "Put a VAE into a checkpoint, or into a diffusers folder, which becomes one file.",
    ),
    "diff": ("baked", "Tell which tensors of two VAEs differ, and how much."),
    "which": ("catalog", "Tell which VAE a checkpoint gets, and why."),
    "prefer": ("catalog", "Store which VAE you prefer for a checkpoint."),
    "doctor": ("doctor", "Find what is wrong with a VAE, a picture or a device."),
    "serve": ("serve", "Serve the page, and the HTTP API by A1111's names."),
    "demo": ("demo", "Make a page of the bundled photo and VAEs."),
    "bench": ("bench", "Measure how fast a VAE is here, beside its peers."),
    "vae": ("catalog", "VAEs on this disk and in the catalog of published ones."),
    "latents": ("latents", "Look at latents: their channels, statistics, how they came about."),
    "train": ("train", "Train VAEs and small diffusion models by recipes."),
}
"""Each command's module here, and what it does in a line, as its own help begins."""

GROUPS = ("vae", "latents", "train")
"""Of commands; their modules hold them as `app`."""


class _Commands(TyperGroup):
    """Each command is imported when it is asked for: to tell of all of them takes none."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:  # all, to find what is near a wrong one
            if name not in self.commands:
                self.commands[name] = _command(name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _command(name: str) -> Any:
    module = import_module(f"vaekit.cli.{COMMANDS[name][0]}")
    holder = typer.Typer(rich_markup_mode=None, add_completion=False)
    holder.callback()(lambda: None)
    if name in GROUPS:
        holder.add_typer(module.app, name=name)
    else:
        holder.command(name)(getattr(module, name))
    made = typer.main.get_command(holder)
    assert isinstance(made, TyperGroup)
    return made.commands[name]


app = typer.Typer(
    name="vaekit",
    cls=_Commands,
    help="Stable Diffusion's VAEs: encode, decode, inspect and understand any of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from vaekit.version import version as running_version

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

"""Write docs/commands.md from the commands' own help: python docs/update_commands.py"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

COMMANDS = (
    "",
    "encode",
    "decode",
    "plan",
    "roundtrip",
    "txt2img",
    "img2img",
    "info",
    "compare",
    "inspect",
    "extract",
    "convert",
    "bake",
    "diff",
    "vae list",
    "vae show",
    "vae pull",
    "vae search",
    "which",
    "prefer",
    "latents show",
    "latents trace",
    "latents stats",
    "latents study",
    "train vae",
    "train diffusion",
    "doctor",
    "serve",
    "demo",
    "bench",
)

INTRODUCTION = """# Commands

What `--help` prints, written by `python docs/update_commands.py`; a test keeps it true.

Decisions (family, device, dtype) are told on standard error, one line each; `vaekit --quiet COMMAND` tells warnings
and errors only. Results and `--json` go to standard output. Exit codes: 0 done, 2 something the user can mend, 1 the
machine failed, 130 interrupted; `doctor` leaves with 1 where it found a fault too. With several inputs a bad one is
told and the others go on.
"""


def render() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(f"\n## vaekit {name}\n\n```\n{_help(name)}\n```\n" for name in COMMANDS)


def _help(name: str) -> str:
    from vaekit.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([*name.split(), "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    Path(__file__).with_name("commands.md").write_text(render(), "utf-8")

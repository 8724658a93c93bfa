"""info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli import common


def info(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURES", help="PNG, JPEG, WebP or AVIF files.")],
    as_json: common.Json = False,
) -> None:
    """Tell how a picture was drawn.

    From the "parameters" in it, as vaekit and A1111's web UI write them.

    Example: vaekit info apple.png
    """
    from vaekit.generate.infotext import read

    report = []

    def work(path: Path) -> None:
        found = read(path)
        report.append({"picture": str(path)} | found.to_dict())
        if not as_json:
            typer.echo(found.prompt)
            if found.negative:
                typer.echo(f"Negative prompt: {found.negative}")
            width = max(map(len, found.settings), default=0)
            typer.echo("\n".join(f"{name:<{width}}  {value}" for name, value in found.settings.items()))

    code = common.each(pictures, "reading", work)
    if as_json:
        common.print_json(report)
    raise typer.Exit(code)

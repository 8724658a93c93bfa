"""latents show, latents trace, latents stats, latents study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit.cli import common
from vaekit.errors import OptionError
from vaekit.files import check_target

app = typer.Typer(help="Look at latents: their channels, statistics, how they came about.", no_args_is_help=True)


@app.command("show")
def show(
    latents: common.Latents,
    output: common.Output = None,
    palette: Annotated[str, typer.Option("--palette", help="diverging (blue, white, red) or grey.")] = "diverging",
    scale: Annotated[
        str, typer.Option("--scale", help="common range for all channels, or one per channel.")
    ] = "common",
    zoom: Annotated[int, typer.Option("--zoom", help="Enlarge each cell to so many pixels, without smoothing.")] = 4,
    index: Annotated[int, typer.Option("--index", help="Which picture of a batch.")] = 0,
    each_channel: Annotated[bool, typer.Option("--each", help="One picture per channel instead of one sheet.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Only the linear RGB preview.")] = False,
    family: common.FamilyName = None,
    unscaled: common.Scaled = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Draw every channel, and the linear RGB preview.

    Cells are enlarged without smoothing.

    Example: vaekit latents show photo.latents.safetensors --palette grey --zoom 6 -o channels.png
    """
    if each_channel and preview:
        raise OptionError("--each and --preview ask for different pictures: take one")
    paths = common.latents_files(latents)
    goals = common.picture_targets(paths, output, ".preview.png" if preview else ".channels.png", force=force)
    report: list[dict[str, Any]] = []

    def work(path: Path) -> None:
        from vaekit import images
        from vaekit.latents import Latents, draw

        loaded = Latents.load(path, family=family, scaled=None if unscaled is None else not unscaled)
        style: dict[str, Any] = {"index": index, "palette": palette, "scale": scale, "zoom": zoom}
        if preview:
            pictures = [draw.preview(loaded, index=index, zoom=zoom)]
        elif each_channel:
            pictures = draw.channels(loaded, **style)
        else:
            pictures = [draw.sheet(loaded, **style)]
        for picture, goal in zip(pictures, common.numbered(goals[path], len(pictures)), strict=True):
            images.write(picture, goal, force=force)
            report.append({"latents": str(path), "picture": str(goal), "size": list(picture.size)})

    code = common.each(paths, "drawing", work)
    if as_json:
        common.print_json(report)
    else:
        for row in report:
            typer.echo(f"{row['picture']}  ({row['size'][0]}×{row['size'][1]})")
    raise typer.Exit(code)


@app.command("trace")
def trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What txt2img or img2img wrote with --trace.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The animation: .webp, .gif or .png; else beside nothing.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="The sheet: a picture; else the animation's name and .sheet.png.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", help="Decode with this one, linear for no VAE; else the one it was drawn by.")
    ] = None,
    index: Annotated[int, typer.Option("--index", help="Which picture of a batch.")] = 0,
    milliseconds: Annotated[int, typer.Option("--milliseconds", help="Of each step in the animation.")] = 120,
    device: common.Device = "auto",
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Draw how noise turned to shape: an animation, and a sheet of the steps.

    A row per channel, one for the decoded latents, one for the decoded estimate; the animation shows both of these.

    Example: vaekit latents trace apple.trace.safetensors -o apple.webp
    """
    from vaekit import images
    from vaekit.generate import trace as traces

    if milliseconds < 10:
        raise OptionError(f"{milliseconds} milliseconds are not possible; 10 are the least")
    goal = output or Path(f"{common.stem(file)}.webp")
    page = sheet or goal.with_name(f"{goal.stem}.sheet.png")
    traces.check_animation(goal)
    images.check_format(page)
    for path in (goal, page):
        check_target(path, force=force)
    loaded = traces.load(file)
    coder = traces.vae_of(loaded, vae, device=device)
    images.write(traces.sheet(loaded, coder, index=index, track=_stepping("the sheet")), page, force=force)
    frames = traces.write_animation(
        loaded, goal, coder, index=index, milliseconds=milliseconds, force=force, track=_stepping("the animation")
    )
    if as_json:
        common.print_json({"animation": str(goal), "frames": frames, "sheet": str(page), "parameters": loaded.text})
    else:
        typer.echo(f"{goal}  ({frames} frames)")
        typer.echo(f"{page}")


def _stepping(what: str) -> Callable[[list[int]], Iterator[int]]:
    return lambda steps: common.track(steps, what)


@app.command("stats")
def stats(
    latents: common.Latents,
    family: common.FamilyName = None,
    unscaled: common.Scaled = None,
    as_json: common.Json = False,
) -> None:
    """Tell mean, standard deviation and range per channel.

    Warns when the scale looks wrong for the family.

    Example: vaekit latents stats photo.latents.safetensors --json
    """
    paths = common.latents_files(latents)
    report: list[dict[str, Any]] = []

    def work(path: Path) -> None:
        from vaekit.latents import Latents
        from vaekit.latents.stats import summary

        loaded = Latents.load(path, family=family, scaled=None if unscaled is None else not unscaled)
        about = {"latents": str(path), "family": loaded.family.name, "shape": list(loaded.tensor.shape)}
        report.append(about | summary(loaded).to_dict())

    code = common.each(paths, "counting", work)
    if as_json:
        common.print_json(report)
    else:
        for row in report:
            _print_stats(row)
    raise typer.Exit(code)


@app.command("study")
def study(
    pictures: common.Pictures,
    vae: common.Vae = "mini",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The report, an .html file; a CSV goes beside it.")
    ] = Path("vaekit-study.html"),
    other: Annotated[
        list[str] | None,
        typer.Option("--other", help="VAE to decode the same latents; several times. Else those of the family here."),
    ] = None,
    side: Annotated[int, typer.Option("--side", help="Shrink larger pictures to so many pixels.")] = 512,
    family: common.FamilyName = None,
    device: common.Device = "auto",
    dtype: common.MeasuringDtype = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Find out how much of the latent space is needed.

    Rounded, with noise, without a channel, beside PNG, JPEG and WebP; what one cell touches; between two pictures.

    Example: vaekit latents study photos/ --vae mini -o study.html
    """
    from vaekit import images
    from vaekit.study import page
    from vaekit.study import study as run
    from vaekit.study.others import relatives

    if output.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{output}: the report is a page: name it {output.stem}.html")
    page.check(output, force=force)
    paths = images.find(pictures)
    coder = common.load_vae(vae, None, family, None, device, common.measuring(dtype))
    found = run(paths, coder, relatives(coder, other, device=device), side=side, track=common.track)
    table = page.write(found, output, force=force)
    if as_json:
        common.print_json({"page": str(output), "csv": str(table)} | found.to_dict())
        return
    rows = [
        (name, variant, "–" if psnr != psnr else f"{psnr:.2f}", "–" if bits is None else f"{bits:.3f}")
        for name in dict.fromkeys(finding.experiment for finding in found.findings)
        for variant, _, psnr, bits in found.mean(name)
    ]
    common.print_table(("experiment", "variant", "PSNR dB", "bits per pixel"), rows)
    typer.echo(f"{output}\n{table}")


def _print_stats(row: dict[str, Any]) -> None:
    spreads = [*enumerate(row["channels"]), ("all", row["overall"])]
    keys = ("mean", "std", "min", "max")
    cells = [(name, *("–" if spread[k] is None else f"{spread[k]:.4f}" for k in keys)) for name, spread in spreads]
    common.print_table(("channel", *keys), cells, title=f"{row['latents']} ({row['family']}, {row['shape']})")
    for warning in row["warnings"]:
        typer.echo(f"warning: {warning}", err=True)

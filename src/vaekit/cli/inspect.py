"""inspect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import common
from vaekit.errors import VaekitError

if TYPE_CHECKING:
    from vaekit.checkpoints.inspect import Inspection


def inspect(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="VAEs, checkpoints, diffusers folders.")],
    fingerprint: Annotated[
        bool,
        typer.Option(
            "--fingerprint", help="Read the VAE's weights: their hash, and which known VAE they are or are near."
        ),
    ] = False,
    float16: Annotated[
        bool, typer.Option("--float16", help="Run it on the sample photos: whether it overflows in float16.")
    ] = False,
    as_json: common.Json = False,
) -> None:
    """Tell which VAE a file holds, from its header.

    Kind, family, layout, dtypes, baked into a checkpoint or alone.

    Example: vaekit inspect model.safetensors vae-ft-mse-840000-ema-pruned.ckpt
    """
    report: list[dict[str, Any]] = []
    code = 0
    for file in files:
        try:
            report += _inspect(_find(file), fingerprint, float16)
        except VaekitError as error:
            print(f"vaekit: {error}", file=sys.stderr)
            code = max(code, error.exit_code)
    if as_json:
        common.print_json(report)
    else:
        for number, entry in enumerate(report):
            typer.echo(("\n" if number else "") + _text(entry))
    raise typer.Exit(code)


def _find(name: str) -> Path:
    from vaekit import assets

    return assets.model_folder(name) if name in assets.bundled_models() else Path(name).expanduser()


def _inspect(path: Path, fingerprint: bool, float16: bool) -> list[dict[str, Any]]:
    from vaekit.checkpoints.inspect import inspect as inspect_file

    return [
        entry.to_dict() | (_fingerprint(entry) if fingerprint else {}) | (_float16(entry) if float16 else {})
        for entry in inspect_file(path)
    ]


def _float16(entry: Inspection) -> dict[str, Any]:
    from vaekit.checkpoints.read import read
    from vaekit.doctor.samples import run_samples
    from vaekit.doctor.weights import check_activations, measure_activations
    from vaekit.engine.placement import place

    weights = read(entry.path)
    samples = run_samples(weights, place().device, track=lambda items: common.track(items, "sample photos"))
    if not samples.peaks:
        return {"float16": {"overflows": None, "told": "not known: without an encoder no photo can be run"}}
    findings = check_activations(samples.peaks, weights.identity.families)
    told = {key: value for key, value in measure_activations(samples.peaks).items() if key != "layers"}
    fits = f"fits: its largest value is {told['of_float16'] or 0:.1%} of what float16 holds, at {told['worst_layer']}"
    told["overflows"] = any(finding.sure == "certain" for finding in findings)
    return {"float16": told | {"told": "; ".join(f"{one.what}; {one.advice}" for one in findings) or fits}}


def _fingerprint(entry: Inspection) -> dict[str, Any]:
    from dataclasses import asdict

    from vaekit.catalog.library import scan
    from vaekit.catalog.named import named_vaes
    from vaekit.checkpoints.fingerprint import fingerprint
    from vaekit.checkpoints.nearest import nearest
    from vaekit.checkpoints.read import read

    state = read(entry.path).state
    names = tuple(family.name for family in entry.identity.families)
    found = nearest(state, named_vaes(scan(), names, other_than=entry.path))
    return {"fingerprint": asdict(fingerprint(state)), "nearest": found.to_dict(), "is": str(found)}


def _text(entry: dict[str, Any]) -> str:
    config = entry["config"]
    halves = [half for half in ("encoder", "decoder") if entry[half]]
    families = " or ".join(entry["families"]) or "unknown"
    lines = {
        "file": f"{entry['path']} ({entry['container']}, {entry['size'] / 1e6:.1f} MB)",
        "VAE": f"{entry['kind']}, {' and '.join(halves)}, {entry['parameters'] / 1e6:.2f} M parameters",
        "family": f"{families} (by {entry['evidence']})",
        "latents": f"{config['latent_channels']} channels from the network, 1/{config['downscale']} of the side",
        "layout": entry["layout"] + (f", under {entry['prefix']}" if entry["prefix"] else ""),
        "dtypes": ", ".join(f"{dtype} ({count} tensors)" for dtype, count in entry["dtypes"].items()),
        "baked": f"yes, beside {entry['other_tensors']} other tensors" if entry["baked"] else "no, a VAE alone",
    }
    if "fingerprint" in entry:
        lines |= {"fingerprint": entry["fingerprint"]["vae"], "is": entry["is"]}
    lines |= {"float16": entry["float16"]["told"]} if "float16" in entry else {}
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items())

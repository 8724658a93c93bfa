"""plan."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vaekit.cli import common
from vaekit.errors import OptionError

if TYPE_CHECKING:
    from vaekit.engine.strips.planning import Pass, Plan
    from vaekit.engine.strips.telling import Forecast

LONGEST = 1 << 20


def plan(
    size: Annotated[str, typer.Option("--size", help="Of the picture, width x height: 16384x16384.")],
    memory: common.Memory = None,
    vae: common.Vae = "mini",
    encode: Annotated[bool, typer.Option("--encode", help="Of encoding; else of decoding.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1 << 20, help="So many pictures.")] = 1,
    to_file: Annotated[bool, typer.Option("--to-file", help="Decoded strip by strip into a PNG or TIFF.")] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Go through every strip, counting what is allocated, without any pixel.")
    ] = False,
    disk: Annotated[
        str | None, typer.Option("--disk", help="So much may be spilled to temporary files; else what is free here.")
    ] = None,
    decoder: common.DecoderFile = None,
    family: common.FamilyName = None,
    padding: common.Padding = None,
    device: common.Device = "auto",
    dtype: common.DtypeName = None,
    attention_window: common.Window = None,
    as_json: common.Json = False,
) -> None:
    """Show how a picture of any size would be run inside a memory budget.

    The strips, what is kept, done again and spilled to a file, memory, operations and
    time, by a calibration of two seconds on this machine. Nothing is decoded.

    Example: vaekit plan --size 16384x16384 --memory 4GiB --vae vae-ft-mse-840000.safetensors
    """
    from vaekit.engine.strips.simulation import simulated

    width, height = _size(size)
    if encode and to_file:
        raise OptionError("--to-file would do nothing here: encoding gives latents")
    coder = common.load_vae(vae, decoder, family, padding, device, dtype, window=attention_window)
    direction: Literal["encode", "decode"] = "encode" if encode else "decode"
    forecast = coder.forecast(
        (width, height),
        direction=direction,
        memory=memory,
        batch=batch,
        output=None if to_file else "pil",
        disk=disk,
    ).at(coder.calibrate(direction))
    counted = None
    if simulate:
        if forecast.plan is None:
            raise OptionError("--simulate would do nothing here: it is run in one piece")
        counted = simulated(forecast.plan)
    if as_json:
        common.print_json(_facts(forecast, counted))
        return
    _print(forecast, counted)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,7})\s*[x×X*]\s*(\d{1,7})\s*", text)
    if found is None or not 0 < int(found[1]) <= LONGEST or not 0 < int(found[2]) <= LONGEST:
        raise OptionError(f"a size is width x height in pixels, as 4096x4096, each up to {LONGEST:,}; not {text!r:.60}")
    return int(found[1]), int(found[2])


def _facts(forecast: Forecast, counted: int | None) -> dict[str, Any]:
    plan = forecast.plan
    return {
        "size": list(_pixels(forecast)),
        "batch": forecast.batch,
        "one_piece": plan is None,
        "memory": forecast.memory,
        "seconds": round(forecast.seconds, 3),
        "operations": forecast.operations,
        "operations_of_attention": forecast.of_attention,
        "spilled": forecast.spilled,
        "steps": [] if plan is None else _steps(plan),
        "passes": [_pass_facts(one) for one in forecast.passes],
    } | ({} if counted is None else {"simulated_memory": counted})


def _pixels(forecast: Forecast) -> tuple[int, int]:
    from vaekit.engine.strips.telling import pixels

    return pixels(forecast.task)


def _steps(plan: Plan) -> list[dict[str, Any]]:
    steps = zip(plan.task.line.steps, plan.places, strict=True)
    return [
        {"step": step.name, "place": place, "bytes": plan.task.bytes_of(i)} for i, (step, place) in enumerate(steps)
    ]


def _pass_facts(one: Pass) -> dict[str, Any]:
    facts = {"rows": one.rows, "strips": one.strips, "memory": one.memory, "seconds": round(one.seconds, 3)}
    return facts | {"computed": [one.sweep.line.steps[i].name for i in one.sweep.computed], "spilled": one.spilled}


def _print(forecast: Forecast, counted: int | None) -> None:
    from vaekit.engine.strips.telling import amount, duration

    typer.echo(str(forecast))
    if forecast.plan is not None:
        _print_passes(forecast.plan)
    facts = {
        "memory": amount(forecast.memory) + ("" if counted is None else f", {amount(counted)} simulated"),
        "time": f"about {duration(forecast.seconds)} on this machine",
        "operations": f"{forecast.operations / 1e12:,.2f} TFLOP{_attention(forecast)}",
        "spilled": f"{amount(forecast.spilled)} written and read" if forecast.spilled else "nothing",
    }
    for name, told in facts.items():
        typer.echo(f"{name:<12}{told}")


def _attention(forecast: Forecast) -> str:
    share = forecast.of_attention / forecast.operations
    if share <= 0.05:
        return ""
    told = "which grows with the square of the area" if forecast.task.line.window is None else "in a window, not exact"
    return f", {share:.0%} of it attention, {told}"


def _print_passes(plan: Plan) -> None:
    from vaekit.engine.strips.telling import amount, duration

    stored = {"keep": "kept", "spill": "spilled", "redo": "done again", "result": "the result"}
    rows = []
    for one in plan.passes:
        line = plan.task.line
        again = ", ".join(line.steps[i].name for i in sorted(one.sweep.redone))
        name = line.steps[one.sweep.target].name + (f"  (through {again})" if again else "")
        place = stored[plan.places[one.sweep.target]]
        rows.append((name, place, one.strips, one.rows, amount(one.memory), duration(one.seconds)))
    common.print_table(("pass", "its result is", "strips", "rows each", "memory", "time"), rows)

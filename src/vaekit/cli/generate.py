"""txt2img, img2img."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import common
from vaekit.errors import OptionError

if TYPE_CHECKING:
    from vaekit.generate.painter import Drawn, Painter
    from vaekit.generate.sampling import Step, Watch
    from vaekit.generate.settings import Settings

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw; may be empty.")]
Negative = Annotated[str, typer.Option("--negative", help="What to draw away from.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Checkpoint: a file, a diffusers folder, a name, OWNER/NAME of the hub; else the bundled."
    ),
]
VaeChoice = Annotated[str, typer.Option("--vae", help="Automatic, None (the baked one), or a VAE's name or path.")]
Steps = Annotated[int, typer.Option("--steps", help="Steps of the sampler.")]
Cfg = Annotated[float, typer.Option("--cfg", help="How strongly the prompt guides; 1 leaves guidance out.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the first picture; the next count up. Else drawn.")]
Size = Annotated[str | None, typer.Option("--size", help="512, or 512x768: width by height. Else the model's own.")]
SamplerName = Annotated[
    str, typer.Option("--sampler", help="Euler a, DPM++ 2M Karras, DDIM, UniPC, LCM …; a wrong name lists all.")
]
ScheduleName = Annotated[
    str, typer.Option("--schedule", help="Automatic, Uniform, Karras, Exponential, Beta, SGM Uniform.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Pictures at a time.")]
Count = Annotated[int, typer.Option("--count", help="How many batches.")]
ClipSkip = Annotated[int | None, typer.Option("--clip-skip", help="Which layer from the end is listened to; 1: last.")]
LoraFiles = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:WEIGHT]", help="May be given several times.")
]
Seamless = Annotated[bool, typer.Option("--seamless", help="Opposite edges fit each other.")]
Limit = Annotated[
    bool, typer.Option("--limit-latents", help="Keep latents within ±3.9, against the purple blotches of SD 1.x.")
]
Config = Annotated[
    str | None,
    typer.Option("--config", help="Diffusers folder, or OWNER/NAME, that tells an unusual single file's networks."),
]
Prediction = Annotated[
    str | None, typer.Option("--prediction", help="epsilon or v, where the checkpoint does not tell.")
]
PreviewFile = Annotated[
    Path | None, typer.Option("--preview", metavar="FILE", help="Write the picture there again and again as it forms.")
]
PreviewVae = Annotated[
    str | None, typer.Option("--preview-vae", help="Tiny VAE for the preview; else the linear RGB factors.")
]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Keep the latents of every step (.safetensors).")
]
SaveInterrupted = Annotated[bool, typer.Option("--save-interrupted", help="On Ctrl-C decode what there is.")]
VaeDtype = Annotated[str | None, typer.Option("--vae-dtype", help="What the VAE decodes in; picked and told.")]
VaeMemory = Annotated[
    str | None, typer.Option("--memory", help="The VAE takes at most so much: 2GiB, 800MiB; else half of the free.")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="What UNet and text encoders run in; picked and told.")]
FILLS = {"original": "original", "fill": "surroundings", "latent-noise": "noise", "latent-nothing": "nothing"}
AREAS = {"whole": "whole", "whole-picture": "whole", "only-masked": "masked"}
"""A1111's words for what is done with a mask, and ours."""
To = Annotated[
    Path | None, typer.Option("--output", "-o", help="A file, numbered for several, or a folder; else here.")
]


def txt2img(
    prompt: Prompt,
    negative: Negative = "",
    model: ModelName = None,
    vae: VaeChoice = "Automatic",
    output: To = None,
    steps: Steps = 20,
    cfg: Cfg = 7.0,
    seed: Seed = None,
    size: Size = None,
    sampler: SamplerName = "DPM++ 2M",
    schedule: ScheduleName = "Automatic",
    batch_size: BatchSize = 1,
    count: Count = 1,
    clip_skip: ClipSkip = None,
    lora: LoraFiles = None,
    hires: Annotated[float | None, typer.Option("--hires", help="Second pass, so many times larger.")] = None,
    hires_upscaler: Annotated[
        str | None, typer.Option("--hires-upscaler", help="latent, or pixel (decoded, enlarged, encoded).")
    ] = None,
    hires_strength: Annotated[
        float | None, typer.Option("--hires-strength", help="Noise added for the second pass, 0 to 1; 0.7.")
    ] = None,
    hires_steps: Annotated[
        int | None, typer.Option("--hires-steps", help="Steps of the second pass; as the first.")
    ] = None,
    hires_vae: Annotated[str | None, typer.Option("--hires-vae", help="Another VAE for the second pass.")] = None,
    seamless: Seamless = False,
    limit_latents: Limit = False,
    preview: PreviewFile = None,
    preview_vae: PreviewVae = None,
    trace: TraceFile = None,
    save_interrupted: SaveInterrupted = False,
    config: Config = None,
    prediction: Prediction = None,
    device: common.Device = "auto",
    dtype: Dtype = None,
    vae_dtype: VaeDtype = None,
    memory: VaeMemory = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Draw a picture by a prompt.

    Sampled in latent space and decoded once, in the end. PNGs tell how they were made: vaekit info.

    Example: vaekit txt2img "a red apple" --seed 1 -o apple.png
    """
    from vaekit.generate.settings import Hires, Settings, parse_size

    details = {"upscaler": hires_upscaler, "strength": hires_strength, "steps": hires_steps, "vae": hires_vae}
    wished = {key: value for key, value in details.items() if value is not None}
    if wished and hires is None:
        raise OptionError(f"--hires-{next(iter(wished))} belongs to --hires")
    settings = Settings(
        prompt=prompt,
        negative=negative,
        steps=steps,
        cfg=cfg,
        seed=seed,
        size=parse_size(size) if size is not None else None,
        sampler=sampler,
        schedule=schedule,
        batch_size=batch_size,
        count=count,
        clip_skip=clip_skip,
        hires=None if hires is None else Hires(hires, **wished),  # type: ignore[arg-type]
        seamless=seamless,
        limit=limit_latents,
    ).seeded()
    _run(
        settings,
        "txt2img",
        lambda painter, watch: painter.txt2img(settings, watch=watch, save_interrupted=save_interrupted),
        {"checkpoint": model, "vae": vae, "config": config, "prediction": prediction, "device": device},
        {"dtype": dtype, "vae_dtype": vae_dtype, "memory": memory, "loras": lora},
        (output, force, as_json),
        (preview, preview_vae, trace),
    )


def img2img(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="What to begin with.")],
    prompt: Prompt,
    negative: Negative = "",
    model: ModelName = None,
    vae: VaeChoice = "Automatic",
    output: To = None,
    strength: Annotated[float, typer.Option("--strength", help="How much noise is added, 0 to 1.")] = 0.75,
    resize: Annotated[str, typer.Option("--resize", help="How it comes to --size: stretch, crop or pad.")] = "stretch",
    mask: Annotated[Path | None, typer.Option("--mask", help="Picture of the same size: white is drawn anew.")] = None,
    mask_blur: Annotated[
        float | None, typer.Option("--mask-blur", help="Blur of the mask's edge in pixels; 4.")
    ] = None,
    mask_content: Annotated[
        str | None,
        typer.Option("--masked-content", help="What it begins with: original, fill, latent-noise or latent-nothing."),
    ] = None,
    inpaint_area: Annotated[
        str | None, typer.Option("--inpaint-area", help="whole picture, or only-masked: drawn large, and put back.")
    ] = None,
    masked_padding: Annotated[
        int | None, typer.Option("--only-masked-padding", help="Pixels around the mask that only-masked takes in; 32.")
    ] = None,
    invert_mask: Annotated[
        bool, typer.Option("--invert-mask", help="Draw anew what is black in the mask: A1111's Inpaint not masked.")
    ] = False,
    untouched: Annotated[
        bool | None,
        typer.Option(
            "--untouched/--redecoded", help="Unmasked pixels come back as they were, or by way of the VAE as well."
        ),
    ] = None,
    steps: Steps = 20,
    cfg: Cfg = 7.0,
    seed: Seed = None,
    size: Annotated[
        str | None, typer.Option("--size", help="512, or 512x768: width by height. Else the picture's own.")
    ] = None,
    sampler: SamplerName = "DPM++ 2M",
    schedule: ScheduleName = "Automatic",
    batch_size: BatchSize = 1,
    count: Count = 1,
    clip_skip: ClipSkip = None,
    lora: LoraFiles = None,
    seamless: Seamless = False,
    limit_latents: Limit = False,
    preview: PreviewFile = None,
    preview_vae: PreviewVae = None,
    trace: TraceFile = None,
    save_interrupted: SaveInterrupted = False,
    config: Config = None,
    prediction: Prediction = None,
    device: common.Device = "auto",
    dtype: Dtype = None,
    vae_dtype: VaeDtype = None,
    memory: VaeMemory = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Draw over a picture by a prompt.

    The picture is encoded, noise is added, sampled and decoded; with --mask a part of it only. What is done with a mask
    goes by A1111's names.

    Example: vaekit img2img apple.png "a green apple" --strength 0.6 -o green.png
    """
    from vaekit.generate.settings import Change, Settings, parse_size

    masking = {
        "--mask-blur": mask_blur,
        "--masked-content": mask_content,
        "--inpaint-area": inpaint_area,
        "--only-masked-padding": masked_padding,
        "--invert-mask": invert_mask or None,
        "--redecoded" if untouched is False else "--untouched": untouched,
    }
    if mask is None:
        for option, given in masking.items():
            if given is not None:
                raise OptionError(f"{option} belongs to --mask")
    area = _one_of(AREAS, inpaint_area or "whole", "--inpaint-area")
    if masked_padding is not None and area != "masked":
        raise OptionError("--only-masked-padding belongs to --inpaint-area only-masked")
    if resize != "stretch" and size is None:
        raise OptionError("--resize belongs to --size")
    change = Change(
        picture,
        strength,
        resize,  # type: ignore[arg-type]
        mask,
        blur=4.0 if mask_blur is None else mask_blur,
        untouched=untouched is not False,
        invert=invert_mask,
        fill=_one_of(FILLS, mask_content or "original", "--masked-content"),  # type: ignore[arg-type]
        area=area,  # type: ignore[arg-type]
        margin=32 if masked_padding is None else masked_padding,
    )
    settings = Settings(
        prompt=prompt,
        negative=negative,
        steps=steps,
        cfg=cfg,
        seed=seed,
        size=parse_size(size) if size is not None else None,
        sampler=sampler,
        schedule=schedule,
        batch_size=batch_size,
        count=count,
        clip_skip=clip_skip,
        seamless=seamless,
        limit=limit_latents,
    ).seeded()
    _run(
        settings,
        "img2img",
        lambda painter, watch: painter.img2img(change, settings, watch=watch, save_interrupted=save_interrupted),
        {"checkpoint": model, "vae": vae, "config": config, "prediction": prediction, "device": device},
        {"dtype": dtype, "vae_dtype": vae_dtype, "memory": memory, "loras": lora},
        (output, force, as_json),
        (preview, preview_vae, trace),
    )


def _one_of(names: dict[str, str], given: str, option: str) -> str:
    """What a name of A1111's stands for, whatever its case and whether spaces or hyphens are in it."""
    name = "-".join(given.lower().split())
    if name not in names:
        raise OptionError(f"{option} is one of {', '.join(names)}, not {given!r}")
    return names[name]


def _run(
    settings: Settings,
    name: str,
    draw: Callable[[Painter, list[Watch]], Iterator[Drawn]],
    loading: dict[str, Any],
    more: dict[str, Any],
    output: tuple[Path | None, bool, bool],
    watching: tuple[Path | None, str | None, Path | None],
) -> None:
    from vaekit.engine.strips.budget import parse
    from vaekit.generate.job import produce, targets
    from vaekit.generate.lora import Lora
    from vaekit.generate.painter import Painter

    to, force, as_json = output
    preview, preview_vae, trace = watching
    if preview_vae is not None and preview is None:
        raise OptionError("--preview-vae belongs to --preview FILE")
    if more["memory"] is not None:
        parse(more["memory"])
    paths = targets(settings, to, name, force=force)
    loras = [Lora.parse(text) for text in more.pop("loras") or []]
    _check_watching(preview, trace, settings, force)
    painter = Painter.open(**loading, **more, loras=loras)
    watch, wish = _watchers(painter, preview, preview_vae, trace, force)
    report = []
    with _bar() as bar:
        for done in produce(draw(painter, [*watch, bar]), paths, force=force, trace=wish):
            report.append(done.to_dict())
            if not as_json:
                typer.echo(f"{done.path}  ({done.size[0]}×{done.size[1]}, seed {done.seed})")
    if as_json:
        common.print_json(report)


def _check_watching(preview: Path | None, trace: Path | None, settings: Settings, force: bool) -> None:
    from vaekit.files import check_target
    from vaekit.generate.preview import to_file

    if preview is not None:
        to_file(preview)
        check_target(preview, force=True)
    if trace is not None:
        if settings.count > 1:
            raise OptionError("a trace follows one batch; --count 1 goes with it")
        check_target(trace, force=force)


def _watchers(
    painter: Painter, preview: Path | None, preview_vae: str | None, trace: Path | None, force: bool
) -> tuple[list[Watch], Any]:
    from vaekit.generate.job import TraceWish
    from vaekit.generate.preview import Preview, to_file
    from vaekit.generate.trace import Trace
    from vaekit.loading import load

    watch: list[Watch] = []
    wish = None
    if preview is not None:
        tiny = None if preview_vae is None else load(preview_vae, device=painter.model.device)
        watch.append(Preview(to_file(preview), painter.vae.family, tiny=tiny))
    if trace is not None:
        wish = TraceWish(Trace(), trace, painter, force)
        watch.append(wish.trace)
    return watch, wish


@contextmanager
def _bar() -> Iterator[Watch]:
    """A bar with steps per second and the time that is left, on standard error, which goes when it is done."""
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Speed(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.2f} it/s")

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Speed(),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def show(step: Step) -> None:
            name = step.part or "sampling"
            if name not in tasks or step.number == 1:
                tasks[name] = bar.add_task(name, total=step.total)
            bar.update(tasks[name], completed=step.number)

        yield show

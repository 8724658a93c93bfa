"""A checkpoint with its VAE, ready to draw: txt2img and img2img.

txt2img samples in latent space; img2img encodes a picture first. What comes out
is latents, one picture at a time; `delivery` decodes and writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit import assets, images
from vaekit.catalog import Library, Resolution, as_asked, resolve, scan
from vaekit.catalog.choice import AUTOMATIC, find_checkpoint
from vaekit.catalog.pull import pull_entry
from vaekit.engine.placement import Dtype
from vaekit.engine.strips.budget import Memory
from vaekit.errors import FamilyError, FileError, OptionError
from vaekit.generate import lora as loras_room
from vaekit.generate.hashes import LETTERS, short_hash
from vaekit.generate.infotext import Infotext
from vaekit.generate.lora import Lora
from vaekit.generate.models import Model, load_model
from vaekit.generate.pictures import Subject, prepare
from vaekit.generate.prompts import listen
from vaekit.generate.samplers import make
from vaekit.generate.sampling import Guidance, Interrupted, Kept, Watch, draws, noise, sample
from vaekit.generate.settings import LIMIT, Change, Fill, Hires, Settings
from vaekit.latents import Latents
from vaekit.loading import load
from vaekit.vae import VAE
from vaekit.version import version

log = logging.getLogger("vaekit")

HUB_FILES = ["*.json", "*/*.json", "*/*.txt", "unet/*.safetensors", "text_encoder*/*.safetensors", "vae/*.safetensors"]
TELLING = ["*.json", "*/*.json", "*/*.txt"]


@dataclass(frozen=True)
class Drawn:
    """One picture before it is decoded.

    subject: what inpainting lays it over; interrupted: at which step, 0 if not; memory: what decoding may take.
    """

    latents: Latents
    seed: int
    text: Infotext
    vae: VAE = field(repr=False)
    subject: Subject | None = None
    interrupted: int = 0
    memory: Memory = None


def default_checkpoint() -> str:
    """The bundled text-to-image model. Raises OptionError where none ships with this installation."""
    bundled = assets.bundled_checkpoints()
    if not bundled:
        raise OptionError("no text-to-image model ships with this installation; name a checkpoint with --model")
    return bundled[0]


def find_model(name: str | None, library: Library) -> Path:
    """The file or folder behind a bundled or other name, a path, or a repository on the hub (OWNER/NAME, fetched).

    Raises OptionError with the nearest names, FileError, NetworkError, AccessError.
    """
    name = name or default_checkpoint()
    if name in assets.bundled_checkpoints():
        return assets.path(f"models/{name}")
    asked = as_asked(name)
    if isinstance(asked, Path):
        return find_checkpoint(asked, library).path
    try:
        return find_checkpoint(asked, library).path
    except OptionError:
        repo = name.removeprefix("hf:")
        if repo.count("/") != 1 or "\\" in repo or Path(name).suffix:
            raise
    from vaekit.catalog.hub import snapshot

    return snapshot(repo, HUB_FILES)


def _configuration(name: str | None) -> Path | None:
    """The folder behind --config: one here, or of a repository on the hub the configurations, fetched."""
    if name is None:
        return None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileError(f"{name}: no such folder; --config takes a folder in the layout of diffusers, or OWNER/NAME")
    from vaekit.catalog.hub import snapshot

    return snapshot(name, TELLING)


class Painter:
    """Model, VAE, and the reason why it is this VAE. Made by `Painter.open`.

    encoding, decoding: the memory that the VAE may take for either, as for `VAE.encode`.
    """

    def __init__(
        self,
        model: Model,
        vae: VAE,
        resolution: Resolution,
        loras: Sequence[Lora] = (),
        *,
        encoding: Memory = None,
        decoding: Memory = None,
    ):
        self.encoding, self.decoding = encoding, decoding
        self.model, self.vae, self.resolution, self.loras = model, vae, resolution, tuple(loras)
        self._library: Library | None = None
        self._seamless: dict[int, VAE] = {}
        self._others: dict[str, tuple[VAE, Resolution]] = {}
        _check_fits(model, vae)

    @staticmethod
    def open(
        checkpoint: str | None = None,
        *,
        vae: str = AUTOMATIC,
        config: str | None = None,
        prediction: str | None = None,
        loras: Sequence[Lora] = (),
        device: str | torch.device = "auto",
        dtype: Dtype | None = None,
        vae_dtype: Dtype | None = None,
        memory: Memory = None,
    ) -> Painter:
        """Find checkpoint and VAE by the rules of catalog.choice, and load them; the VAE is settled first.

        checkpoint: None for the bundled one. vae: Automatic, None, a name or a path.
        config, prediction, dtype: as for `load_model`; config may be a repository.
        memory: bytes or "1GiB" that the VAE may take; None for half of what is free.
        Raises what those raise, and FamilyError for a VAE of another family.
        """
        library = scan()
        path = find_model(checkpoint, library)
        missing = next((one.path for one in loras if not one.path.is_file()), None)
        if missing is not None:
            raise FileError(f"{missing}: no such LoRA file")
        resolution = resolve(path, as_asked(vae), library=library, fetch=pull_entry)
        log.info("VAE: %s, because %s", resolution.name, resolution.reason)
        loaded = load_resolved(resolution, device, vae_dtype)
        name = path.name if path.is_dir() else path.stem
        model = load_model(
            path, name=name, config=_configuration(config), prediction=prediction, device=device, dtype=dtype
        )
        painter = Painter(model, loaded, resolution, loras, encoding=memory, decoding=memory)
        painter._library = library
        for one in loras:
            loras_room.apply(model, one)
        return painter

    # Drawing

    def txt2img(
        self, settings: Settings, *, watch: Sequence[Watch] = (), save_interrupted: bool = False
    ) -> Iterator[Drawn]:
        """Draw by the prompt. Gives each picture's latents, `count` batches of `batch_size`.

        watch: called with each Step. save_interrupted: on Ctrl-C give what there is,
        before KeyboardInterrupt goes on. Raises NumericsError, OptionError.
        """
        side = self.model.side * self.vae.family.downscale
        size = settings.size or (side, side)
        yield from self._batches(settings.seeded(), size, None, None, watch, save_interrupted)

    def img2img(
        self, change: Change, settings: Settings, *, watch: Sequence[Watch] = (), save_interrupted: bool = False
    ) -> Iterator[Drawn]:
        """Encode a picture, draw over it by the prompt; otherwise as txt2img. Raises PictureError too."""
        if settings.hires is not None:
            raise OptionError("a hires pass follows txt2img; img2img with --size does the same")
        subject = prepare(change, settings.size)
        yield from self._batches(settings.seeded(), subject.picture.size, change, subject, watch, save_interrupted)

    def _batches(
        self,
        settings: Settings,
        size: tuple[int, int],
        change: Change | None,
        subject: Subject | None,
        watch: Sequence[Watch],
        save_interrupted: bool,
    ) -> Iterator[Drawn]:
        assert settings.seed is not None
        prompt, negative = listen(self.model, settings.prompt, settings.negative, clip_skip=self._clip_skip(settings))
        guidance = Guidance(prompt, negative, settings.cfg, size, self._beside(settings, size, subject))
        final = self._final_vae(settings)
        if self.decoding is not None:  # one that is too small is told before the sampling
            final.forecast(size if settings.hires is None else settings.hires.size(size), memory=self.decoding)
        encoded = (
            None if subject is None else self._encode(self._vae(settings.seamless), subject.filled or subject.picture)
        )
        for number in range(settings.count):
            first = settings.seed + number * settings.batch_size
            seeds = [first + i for i in range(settings.batch_size)]
            draw = partial(self._draw, settings, guidance, seeds, encoded, change, subject, watch)
            stopped: KeyboardInterrupt | None = None
            at = 0
            try:
                with _edges_meet(self.model.unet, settings.seamless):
                    tensor = draw()
            except Interrupted as stop:
                if not save_interrupted or stop.latents is None:
                    raise
                log.info("interrupted at step %d; what there is is decoded", stop.step)
                tensor, stopped, at = stop.latents, stop, stop.step
            for seed, one in zip(seeds, self._finished(tensor, settings, size, final), strict=True):
                text = self._text(settings, seed, one.size, change, at)
                merged = subject if change is not None and change.untouched else None
                yield Drawn(one, seed, text, final, merged, at, self.decoding)
            if stopped is not None:
                raise KeyboardInterrupt from stopped

    def _draw(
        self,
        settings: Settings,
        guidance: Guidance,
        seeds: list[int],
        encoded: Tensor | None,
        change: Change | None,
        subject: Subject | None,
        watch: Sequence[Watch],
    ) -> Tensor:
        generators = draws(seeds)
        if encoded is not None and change is not None and subject is not None:
            cells = subject.cells(self.vae.family.downscale)
            mask = None if cells is None else cells.to(encoded)
            batch = encoded.expand(len(seeds), -1, -1, -1)
            begin = batch if mask is None else self._refilled(change.fill, batch, mask, generators)
            return self._again(
                settings, guidance, begin, generators, change.strength, settings.steps, watch, mask=mask, kept=batch
            )
        width, height = (side // self.vae.family.downscale for side in guidance.size)
        scheduler = make(*settings.chosen(), self.model.scheduler, settings.steps, self.model.device)
        x = noise(generators, (self.model.channels, height, width), self.model) * scheduler.init_noise_sigma
        z = sample(self.model, scheduler, guidance, x, generators, watch=watch)
        return z if settings.hires is None else self._hires(settings, settings.hires, guidance, z, generators, watch)

    def _beside(self, settings: Settings, size: tuple[int, int], subject: Subject | None) -> Tensor | None:
        """What an inpainting UNet is shown beside the latents, as A1111 and diffusers do it; without a mask, grey."""
        if not self.model.inpaints:
            return None
        hidden = torch.zeros(1, 3, size[1], size[0]) if subject is None else subject.hidden()
        latents = self._encode(self._vae(settings.seamless), hidden)
        cells = None if subject is None else subject.cells(self.vae.family.downscale)
        return torch.cat([torch.ones_like(latents[:, :1]) if cells is None else cells.to(latents), latents], dim=1)

    def _refilled(self, fill: Fill, z: Tensor, mask: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Latents with noise, or 0, where something is to be drawn anew."""
        if fill == "noise":
            return (1 - mask) * z + mask * noise(generators, (z.shape[1], z.shape[2], z.shape[3]), self.model)
        return (1 - mask) * z if fill == "nothing" else z

    def _again(
        self,
        settings: Settings,
        guidance: Guidance,
        z: Tensor,
        generators: list[torch.Generator],
        strength: float,
        steps: int,
        watch: Sequence[Watch],
        *,
        mask: Tensor | None = None,
        kept: Tensor | None = None,
        part: str = "",
    ) -> Tensor:
        """Add noise to latents in model space, and take the last steps of the sampler (SDEdit, Meng et al. 2022).

        kept: what stays outside the mask, z itself unless given.
        """
        taken = max(1, int(steps * strength)) if strength else 0
        if not taken:
            return z
        scheduler = make(*settings.chosen(), self.model.scheduler, steps, self.model.device)
        begin = (steps - taken) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        added = noise(generators, (z.shape[1], z.shape[2], z.shape[3]), self.model)
        x = scheduler.add_noise(z, added, scheduler.timesteps[begin : begin + 1].repeat(len(z)))
        stays = None if mask is None else Kept(z if kept is None else kept, mask)
        return sample(self.model, scheduler, guidance, x, generators, begin=begin, kept=stays, watch=watch, part=part)

    def _hires(
        self,
        settings: Settings,
        hires: Hires,
        guidance: Guidance,
        z: Tensor,
        generators: list[torch.Generator],
        watch: Sequence[Watch],
    ) -> Tensor:
        size = hires.size(guidance.size)
        cells = tuple(side // self.vae.family.downscale for side in reversed(size))
        if hires.upscaler == "latent":
            larger = F.interpolate(z.float(), size=cells, mode="bilinear").to(z.dtype)
        else:
            first, second = self._vae(settings.seamless), self._final_vae(settings)
            decoded = images.to_pil(first.decode(z.float().cpu(), output="tensor", memory=self.decoding))
            enlarged = [one.resize(size, Image.Resampling.LANCZOS) for one in decoded]
            larger = torch.cat([self._encode(second, picture) for picture in enlarged])
        told = replace(guidance, size=size, beside=self._beside(settings, size, None))
        steps = hires.steps or settings.steps
        return self._again(settings, told, larger, generators, hires.strength, steps, watch, part="hires")

    def _encode(self, vae: VAE, picture: Image.Image | Tensor) -> Tensor:
        return vae.encode(picture, memory=self.encoding).tensor.to(self.model.device, self.model.dtype)

    def _finished(self, tensor: Tensor, settings: Settings, size: tuple[int, int], vae: VAE) -> list[Latents]:
        side = vae.family.downscale
        values = tensor.detach().float().cpu()
        if settings.limit:
            beyond = int((values.abs() > LIMIT).sum())
            log.info("latents kept within ±%s: %d of %d values were beyond", LIMIT, beyond, values.numel())
            values = values.clamp(-LIMIT, LIMIT)
        if settings.hires is not None and tuple(values.shape[2:]) != tuple(-(-s // side) for s in reversed(size)):
            size = (values.shape[3] * side, values.shape[2] * side)
        return list(Latents(values, vae.family, size, vae=vae.fingerprint.vae))

    def _clip_skip(self, settings: Settings) -> int | None:
        if settings.clip_skip is not None and self.model.is_xl:
            raise OptionError("SDXL listens to the layer before the last; clip skip is for SD 1.x and 2.x")
        return settings.clip_skip

    # VAEs

    def _vae(self, seamless: bool, vae: VAE | None = None) -> VAE:
        """The VAE, with edges that meet where they are to."""
        vae = vae or self.vae
        if not seamless:
            return vae
        if id(vae) not in self._seamless:
            resolution = self.resolution if vae is self.vae else next(r for v, r in self._others.values() if v is vae)
            placement = vae.placement
            self._seamless[id(vae)] = load_resolved(resolution, placement.device, placement.decode_dtype, "circular")
        return self._seamless[id(vae)]

    def _final_vae(self, settings: Settings) -> VAE:
        """What decodes in the end: that of the hires pass, if another was wished."""
        wanted = settings.hires.vae if settings.hires else None
        if wanted is None:
            return self._vae(settings.seamless)
        if wanted not in self._others:
            library = self._library or scan()
            found = resolve(self.model.path, as_asked(wanted), library=library, fetch=pull_entry)
            log.info("VAE of the hires pass: %s, because %s", found.name, found.reason)
            loaded = load_resolved(found, self.vae.placement.device, self.vae.placement.decode_dtype)
            _check_fits(self.model, loaded)
            self._others[wanted] = loaded, found
        return self._vae(settings.seamless, self._others[wanted][0])

    # Telling

    def _text(
        self, settings: Settings, seed: int, size: tuple[int, int], change: Change | None, interrupted: int
    ) -> Infotext:
        sampler, schedule = settings.chosen()
        first = size if settings.hires is None else settings.size or (self.model.side * self.vae.family.downscale,) * 2
        told: dict[str, object] = {
            "Steps": settings.steps,
            "Sampler": sampler.name,
            "Schedule type": schedule.name,
            "CFG scale": f"{settings.cfg:g}",
            "Seed": seed,
            "Size": f"{first[0]}x{first[1]}",
            "Model hash": short_hash(self.model.path),
            "Model": self.model.name,
            "VAE hash": _vae_hash(self.resolution, self.vae),
            "VAE": self.resolution.name,
        }
        if change is not None:
            told |= {"Denoising strength": f"{change.strength:g}"}
            told |= {} if change.mask is None else _mask_told(change)
        if settings.hires is not None:
            told |= _hires_told(settings.hires)
        told |= {"Clip skip": settings.clip_skip} if settings.clip_skip else {}
        told |= {"Tiling": True} if settings.seamless else {}
        told |= {"Latents limit": LIMIT} if settings.limit else {}
        if self.loras:
            told["Lora hashes"] = ", ".join(f"{one.path.stem}: {short_hash(one.path)}" for one in self.loras)
            told["Lora weights"] = ", ".join(f"{one.path.stem}: {one.weight:g}" for one in self.loras)
        told |= {"Interrupted at step": interrupted} if interrupted else {}
        told |= {"RNG": "CPU", "Version": f"vaekit {version()}"}
        return Infotext(settings.prompt, settings.negative, {name: str(value) for name, value in told.items()})


def _mask_told(change: Change) -> dict[str, object]:
    """In A1111's words, and only where it is not the usual."""
    told: dict[str, object] = {"Mask blur": f"{change.blur:g}"}
    told |= {"Mask mode": "Inpaint not masked"} if change.invert else {}
    named = {"surroundings": "fill", "noise": "latent noise", "nothing": "latent nothing"}
    told |= {"Masked content": named[change.fill]} if change.fill in named else {}
    if change.area == "masked":
        told |= {"Inpaint area": "Only masked", "Masked area padding": change.margin}
    return told


def _hires_told(hires: Hires) -> dict[str, object]:
    told: dict[str, object] = {
        "Hires upscale": f"{hires.scale:g}",
        "Hires upscaler": {"latent": "Latent", "pixel": "Lanczos"}[hires.upscaler],
        "Denoising strength": f"{hires.strength:g}",
    }
    told |= {"Hires steps": hires.steps} if hires.steps else {}
    return told | ({"Hires VAE": hires.vae} if hires.vae else {})


def _vae_hash(resolution: Resolution, vae: VAE) -> str:
    """Of its file; of a baked one, which has none, the fingerprint of its weights."""
    if resolution.path is None or resolution.baked:
        return vae.fingerprint.vae[:LETTERS]
    return short_hash(resolution.path)


def load_resolved(
    resolution: Resolution, device: str | torch.device = "auto", dtype: Dtype | None = None, padding: Any = None
) -> VAE:
    """The VAE that `catalog.resolve` settled on. Raises FileError where it is not here, and what `load` raises."""
    if resolution.path is None:
        raise FileError(f"{resolution.name} is not on this disk; vaekit vae pull {resolution.name} fetches it")
    family = resolution.families[0] if len(resolution.families) == 1 else None
    return load(
        resolution.path,
        decoder=resolution.decoder,
        family=family,
        device=device,
        decode_dtype=dtype,
        padding=padding,
    )


def _check_fits(model: Model, vae: VAE) -> None:
    if vae.family.latent_channels != model.channels:
        raise FamilyError(
            f"{vae.name} is a VAE of {vae.family.name} with {vae.family.latent_channels} channels, {model.name} draws "
            f"latents of {model.channels}: they cannot fit; name another with --vae"
        )
    if not vae.can_decode:
        raise FamilyError(f"{vae.name} has no decoder; name another VAE with --vae")


@contextmanager
def _edges_meet(network: nn.Module, seamless: bool) -> Iterator[None]:
    """A network whose convolutions see the other edge beyond an edge, for as long as it lasts."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.padding != (0, 0)] if seamless else []
    before = [layer.padding_mode for layer in layers]
    for layer in layers:
        layer.padding_mode = "circular"
    try:
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.padding_mode = mode

"""Where drawings are made, one at a time, and what can be seen of the one under way."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from vaekit import assets
from vaekit.catalog import Entry, Library, Preferences, Resolution, places, resolve, scan
from vaekit.catalog.choice import AUTOMATIC, NONE, find_checkpoint
from vaekit.catalog.known import nearest
from vaekit.engine.strips.budget import Memory, free_bytes
from vaekit.errors import FamilyError, OptionError, UnsafeFileError
from vaekit.generate.delivery import deliver
from vaekit.generate.models import Model, load_model
from vaekit.generate.painter import Drawn, Painter, default_checkpoint, load_resolved
from vaekit.generate.preview import Preview
from vaekit.generate.sampling import Step, Watch
from vaekit.generate.settings import Change, Settings
from vaekit.loading import load
from vaekit.vae import VAE
from vaekit.web.history import History, LastTrace, Steps
from vaekit.web.naming import without_folders
from vaekit.web.options import Method, Options, Store
from vaekit.web.queue import NOBODY, WAITING, Busy, Client, FairQueue

log = logging.getLogger("vaekit")
T = TypeVar("T")


@dataclass
class Progress:
    """The drawing under way. job: "" where there is none; picture: the last preview.

    first: when the first step was done, and how much of all that was; loading before it tells nothing of the rest.
    """

    job: str = ""
    number: int = 0
    count: int = 0
    step: int = 0
    steps: int = 0
    first: tuple[float, float] | None = None
    picture: Image.Image | None = None
    interrupted: bool = False
    skipped: bool = False

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        if not self.job or not self.count:
            return 0.0
        return min(1.0, (self.number + (self.step / self.steps if self.steps else 0.0)) / self.count)

    @property
    def seconds_left(self) -> float:
        """0 where nothing is known yet."""
        if self.first is None or self.share <= self.first[1]:
            return 0.0
        then, before = self.first
        return (time.monotonic() - then) * (1 - self.share) / (self.share - before)


@dataclass(frozen=True)
class Done:
    """What a request gave. files: on the disk, in the order of seeds; texts: their infotexts."""

    files: tuple[Path, ...]
    pictures: tuple[Image.Image, ...]
    seeds: tuple[int, ...]
    texts: tuple[str, ...]
    settings: dict[str, str]
    resolution: Resolution
    model: str
    interrupted: bool = False


@dataclass
class Desk:
    """Models in memory and the queue before them.

    outputs: the folder that pictures are written into, and below it what is kept of the latest generations and the
    models that are made. pickles: load also what is no safetensors file.
    """

    store: Store
    outputs: Path
    models: Sequence[Path] = ()
    device: str = "auto"
    waiting: int = WAITING
    pickles: bool = False
    progress: Progress = field(default_factory=Progress)
    served: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.queue = FairQueue(self.waiting)
        self.refused = 0
        self.closed = False
        self._lock = threading.Lock()
        self._scanning = threading.Lock()
        self.history = History(self.outputs / "history")
        self.trace = LastTrace(self.outputs / "history" / "last.trace.safetensors")
        self.made = self.outputs / "models"
        self._library: Library | None = None
        self._model: tuple[Path, Model] | None = None
        self._named: tuple[tuple[Any, ...], VAE] | None = None
        self._vaes: OrderedDict[tuple[Any, ...], VAE] = OrderedDict()

    # What there is

    def library(self, *, anew: bool = False) -> Library:
        """What is on this disk; looked through once, or anew."""
        with self._scanning:
            if self._library is None or anew:
                made = [self.made] if self.made.is_dir() else []
                self._library = scan(places([*self.models, *made]))
            return self._library

    def checkpoints(self) -> dict[str, Path]:
        """Checkpoints by the names that requests may use, the bundled ones first."""
        bundled = {name: assets.path(f"models/{name}") for name in assets.bundled_checkpoints()}
        others = [e for e in self.library().checkpoints if e.path not in bundled.values()]
        return bundled | _by_name(others)

    def vaes(self) -> dict[str, Path]:
        """VAEs by the names that requests may use."""
        return _by_name(self.library().vaes)

    def told(self, value: Any) -> Any:
        """Texts, and plain values with texts in them, for clients: with names in the place of this machine's paths."""
        names = {path: name for known in (self.vaes(), self.checkpoints()) for name, path in known.items()}
        return without_folders(value, names, (*self.models, self.outputs, self.store.path.parent))

    def named(self, name: str) -> VAE:
        """A VAE by the name that `vaes` has for it, loaded; the last one stays. Raises OptionError with the nearest."""
        entry = self._entry(name)
        key = (entry.path, entry.stamp)
        if self._named is None or self._named[0] != key:
            family = entry.families[0] if len(entry.families) == 1 else None
            self._named = key, load(entry.path, decoder=entry.decoder, family=family, device=self.device)
        return self._named[1]

    def place(self, name: str) -> tuple[Path, Path | None]:
        """Where a VAE of that name lies, and a second file of it that holds its decoder. Raises as `named` does."""
        entry = self._entry(name)
        return entry.path, entry.decoder

    def _entry(self, name: str) -> Entry:
        known = self.vaes()
        if name not in known:
            raise OptionError(f"no VAE is called {name[:100]!r}; {nearest(name, set(known))}")
        entry = self.library().look(known[name])
        self.refuse_pickle(entry)
        return entry

    def checkpoint(self, options: Options) -> Path:
        """The chosen checkpoint; never a path that a request names. Raises OptionError with the nearest names."""
        name = options.sd_model_checkpoint.rpartition(" [")[0] or options.sd_model_checkpoint
        known = self.checkpoints()
        if not name:
            if assets.bundled_checkpoints():
                name = default_checkpoint()
            elif not known:
                raise OptionError("no checkpoint is on this disk, and none ships with this installation")
            else:
                name = next(iter(known))
        if name in known:
            return known[name]
        try:
            return find_checkpoint(name, self.library()).path
        except OptionError as error:
            raise OptionError(f"no checkpoint is called {name[:100]!r}; {nearest(name, set(known))}") from error

    def resolution(self, options: Options) -> Resolution:
        """Which VAE these options lead to, and why. Raises OptionError, FamilyError, FileError."""
        path = self.checkpoint(options)
        self.refuse_pickle(self.library().look(path))
        found = self._resolution(path, options)
        if found.path is not None:
            self.refuse_pickle(self.library().look(found.path))
        return found

    def refuse_pickle(self, entry: Entry) -> None:
        """Raise UnsafeFileError for what is no safetensors file, unless the server was started to load them too."""
        if not self.pickles and _is_pickle(entry):
            raise UnsafeFileError(
                f"{entry.name} is a pickle, and this server loads safetensors files alone: vaekit convert or extract "
                "makes one of it, vaekit serve --allow-pickles loads it as it is"
            )

    def _resolution(self, path: Path, options: Options) -> Resolution:
        choice: str = options.sd_vae
        if not options.sd_vae_overrides_per_model_preferences and Preferences().get(path) is not None:
            choice = AUTOMATIC
        named = self.vaes().get(choice)
        library = self.library()
        if named is not None and len(library.named(choice, "vae")) != 1:
            return replace(resolve(path, named, library=library), choice=choice)
        return resolve(path, choice, library=library)

    def check(self, values: dict[str, Any]) -> None:
        """Raise what a drawing with these options changed would raise, before they are stored."""
        options = self.store.read().changed(values)
        if {"sd_model_checkpoint", "sd_vae"} & set(values):
            if options.sd_vae in (AUTOMATIC, NONE) and not (options.sd_model_checkpoint or self.checkpoints()):
                return
            self.resolution(options)

    # The queue

    def submit(self, work: Callable[[], T], client: Client = NOBODY) -> Future[T]:
        """Do this in the client's turn (`FairQueue`). Raises Busy, and gives it where a place is lost to others."""
        try:
            future = self.queue.submit(work, client)
        except Busy:
            with self._lock:
                self.refused += 1
            raise
        future.add_done_callback(self._left)
        return future

    def _left(self, future: Future[Any]) -> None:
        with self._lock:
            if future.cancelled():
                return
            error = future.exception()
            self.served += error is None
            self.refused += isinstance(error, Busy)
            self.failed += error is not None and not isinstance(error, Busy)

    @property
    def pending(self) -> int:
        """Under way and waiting."""
        return self.queue.pending

    def interrupt(self) -> None:
        """Stop the drawing under way; what there is of it is decoded."""
        if self.progress.job:
            self.progress.interrupted = True

    def skip(self) -> None:
        """Stop the batch under way, and go on with the next."""
        if self.progress.job:
            self.progress.skipped = True

    def close(self) -> None:
        """Take nothing more, and stop what is under way."""
        self.closed = True
        self.interrupt()
        self.queue.close()

    # Drawing

    def draw(self, settings: Settings, options: Options, change: Change | None = None, *, keep: bool = False) -> Done:
        """Draw `settings.count` batches. To be called by `submit`. keep: leave the pictures' files.

        Raises what drawing raises.
        """
        settings = settings.seeded()
        if "TAESD" in (options.sd_vae_encode_method, options.sd_vae_decode_method) and (
            settings.seamless or (settings.hires is not None and settings.hires.upscaler == "pixel")
        ):
            raise OptionError("tiling and the Lanczos upscaler go by the whole VAE; set the VAE types to Full")
        job = "img2img" if change is not None else "txt2img"
        self.progress = now = Progress(job, count=settings.count, steps=settings.steps)
        try:
            painter, decoder = self._painter(options)
            return self._drawn(painter, decoder, settings, options, change, keep)
        finally:
            now.job, now.picture = "", None

    def _drawn(
        self,
        painter: Painter,
        decoder: VAE | None,
        settings: Settings,
        options: Options,
        change: Change | None,
        keep: bool,
    ) -> Done:
        now = self.progress
        files: list[Path] = []
        pictures: list[Image.Image] = []
        seeds: list[int] = []
        texts: list[str] = []
        told: dict[str, str] = {}
        for number in range(settings.count):
            now.number, now.step, now.skipped = number, 0, False
            one = replace(settings, count=1, seed=(settings.seed or 0) + number * settings.batch_size)
            for drawn in self._batch(painter, one, options, change):
                marked = _marked(drawn, options)
                marked = marked if decoder is None else replace(marked, vae=decoder)
                path = self.outputs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}-{drawn.seed}.png"
                pictures.append(deliver(marked, path))
                self.history.add(marked, pictures[-1], painter, options.latent_history)
                files.append(path)
                seeds.append(drawn.seed)
                texts.append(str(marked.text))
                told = dict(marked.text.settings)
            if now.interrupted:
                break
        now.number, now.step = settings.count, 0
        done = Done(
            tuple(files),
            tuple(pictures),
            tuple(seeds),
            tuple(texts),
            told,
            painter.resolution,
            painter.model.name,
            now.interrupted,
        )
        if not keep:
            for path in files:
                path.unlink()
        return done

    def _batch(self, painter: Painter, settings: Settings, options: Options, change: Change | None) -> list[Drawn]:
        """The pictures of one batch; of an interrupted one what there is, of one stopped before its first step none."""
        steps = Steps()
        watch: list[Watch] = [self._look(painter, options)]
        if options.trace_last_generation:
            watch.insert(0, steps)
        found: list[Drawn] = []
        try:
            drawings = (
                painter.txt2img(settings, watch=watch, save_interrupted=True)
                if change is None
                else painter.img2img(change, settings, watch=watch, save_interrupted=True)
            )
            for drawn in drawings:
                found.append(drawn)
        except KeyboardInterrupt:
            log.info("a drawing was stopped as asked")
        if found and options.trace_last_generation:
            steps.save(self.trace.path, found[0], painter)
        return found

    def _look(self, painter: Painter, options: Options) -> Callable[[Step], None]:
        now, every = self.progress, options.show_progress_every_n_steps
        preview = None
        if options.live_previews_enable and every > 0 and painter.vae.family.preview:

            def show(picture: Image.Image, step: Step) -> None:
                now.picture = picture

            preview = Preview(show, painter.vae.family)

        def look(step: Step) -> None:
            now.step, now.steps = step.number, step.total
            now.first = now.first or (time.monotonic(), now.share)
            if preview is not None and step.number % every == 0:
                preview(step)
            if now.interrupted or now.skipped:
                raise KeyboardInterrupt

        return look

    # Models in memory

    def _painter(self, options: Options) -> tuple[Painter, VAE | None]:
        """Model and VAE in memory, and what decodes where it is another."""
        resolution = self.resolution(options)
        log.info("VAE: %s, because %s", resolution.name, resolution.reason)
        vae = self._vae(resolution, options.sd_vae_checkpoint_cache)
        path = resolution.checkpoint
        if self._model is None or self._model[0] != path:
            self._model = None
            name = path.name if path.is_dir() else path.stem
            self._model = path, load_model(path, name=name, device=self.device)
        tiny = self._tiny(vae) if "TAESD" in (options.sd_vae_encode_method, options.sd_vae_decode_method) else None
        encoder = tiny if tiny is not None and options.sd_vae_encode_method == "TAESD" else vae
        decoder = tiny if options.sd_vae_decode_method == "TAESD" else vae
        painter = Painter(
            self._model[1],
            encoder,
            resolution,
            encoding=_budget(options.sd_vae_encode_method, options, vae),
            decoding=_budget(options.sd_vae_decode_method, options, vae),
        )
        return painter, None if decoder is encoder else decoder

    def _vae(self, resolution: Resolution, cache: int) -> VAE:
        stat = resolution.path.stat() if resolution.path is not None else None
        key = (resolution.path, resolution.decoder, stat and stat.st_mtime_ns)
        if key not in self._vaes:
            while len(self._vaes) > cache:
                self._vaes.popitem(last=False)
            self._vaes[key] = load_resolved(resolution, self.device)
        self._vaes.move_to_end(key)
        while len(self._vaes) > cache + 1:
            self._vaes.popitem(last=False)
        return self._vaes[key]

    def _tiny(self, vae: VAE) -> VAE:
        """A tiny VAE of the same family. Raises FamilyError where there is none."""
        for entry in self.library().vaes:
            fits = entry.facts.network == "tiny" and entry.families == (vae.family.name,)
            if fits and (self.pickles or not _is_pickle(entry)):
                found = load(entry.path, decoder=entry.decoder, family=vae.family, device=self.device)
                if found.can_encode and found.can_decode:
                    return found
        raise FamilyError(f"no tiny VAE of {vae.family.name} is on this disk; set the VAE type to Full")


def _budget(method: Method, options: Options, vae: VAE) -> Memory:
    """What this method lets the VAE take; where the options leave it open, half of what is free now."""
    if method != "Bounded memory":
        return None
    return options.vae_memory_budget or free_bytes(vae.placement.device) // 2


def _marked(drawn: Drawn, options: Options) -> Drawn:
    """The drawing with the methods in its text, as A1111 writes them, where they are not the usual ones."""
    told = {"VAE Encoder": options.sd_vae_encode_method, "VAE Decoder": options.sd_vae_decode_method}
    more = {name: method for name, method in told.items() if method != "Full"}
    return replace(drawn, text=replace(drawn.text, settings=dict(drawn.text.settings) | more))


def _is_pickle(entry: Entry) -> bool:
    """Whether anything of it is in PyTorch's own format; a folder's parts lie in folders of their own."""
    if entry.path.is_dir():
        folders = {path.parent for path in entry.path.glob("**/*.bin")}
        return any(not list(folder.glob("*.safetensors")) for folder in folders)
    return entry.facts.container not in ("", "safetensors")


def _by_name(entries: Sequence[Entry]) -> dict[str, Path]:
    """By file name, by the longer name where two share that."""
    last = [entry.name.rpartition("/")[2] for entry in entries]
    return {
        (entry.name if last.count(short) > 1 else short): entry.path for entry, short in zip(entries, last, strict=True)
    }

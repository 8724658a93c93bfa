"""Pictures one after the other onto the disk, with what was wished beside them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaekit import images
from vaekit.errors import OptionError
from vaekit.files import check_target
from vaekit.generate.delivery import deliver
from vaekit.generate.painter import Drawn, Painter
from vaekit.generate.settings import Settings
from vaekit.generate.trace import Trace


@dataclass(frozen=True)
class Delivered:
    """A picture that is on the disk. seconds: for decoding and writing."""

    path: Path
    size: tuple[int, int]
    seed: int
    text: str
    settings: dict[str, str]
    seconds: float
    interrupted: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "size": list(self.size),
            "seed": self.seed,
            "parameters": self.text,
            "settings": self.settings,
            "decode_seconds": round(self.seconds, 3),
            "interrupted_at_step": self.interrupted,
        }


def targets(settings: Settings, output: Path | None, name: str, *, force: bool) -> list[Path]:
    """Where each picture goes, checked before anything is loaded.

    output: a file, which several pictures share with numbers, or a folder (it exists,
    or has no ending); None for the working folder. In folders NAME-SEED.png.
    Raises OutputError.
    """
    count, seed = settings.count * settings.batch_size, settings.seed or 0
    if output is None or output.is_dir() or not output.suffix:
        folder = output or Path()
        paths = [folder / f"{name}-{seed + i}.png" for i in range(count)]
    elif count == 1:
        paths = [output]
    else:
        paths = [output.with_stem(f"{output.stem}-{i}") for i in range(count)]
    for path in paths:
        images.check_format(path)
        check_target(path, force=force)
    return paths


@dataclass(frozen=True)
class TraceWish:
    """Keep every step of the one batch that is drawn in a file."""

    trace: Trace
    path: Path
    painter: Painter
    force: bool = False

    def check(self, settings: Settings) -> None:
        """Raise OptionError or OutputError now for what could not be done later."""
        if settings.count > 1:
            raise OptionError("a trace follows one batch; --count 1 goes with it")
        check_target(self.path, force=self.force)

    def save(self, drawn: Sequence[Drawn]) -> None:
        found = self.painter.resolution
        final = torch.cat([one.latents.tensor for one in drawn])
        named = found.name if found.known else str(found.path)
        family = drawn[0].latents.family
        self.trace.save(self.path, final, family, vae=named, text=str(drawn[0].text), force=self.force)


def produce(
    drawings: Iterable[Drawn], paths: Sequence[Path], *, force: bool = False, trace: TraceWish | None = None
) -> Iterator[Delivered]:
    """Deliver each drawing as it comes; with a trace, that is written first. Raises what drawing and writing raise."""
    if trace is not None:
        drawings = _traced(drawings, trace)
    for drawn, path in zip(drawings, paths, strict=False):
        started = time.perf_counter()
        picture = deliver(drawn, path, force=force)
        seconds = time.perf_counter() - started
        told = dict(drawn.text.settings)
        yield Delivered(path, picture.size, drawn.seed, str(drawn.text), told, seconds, drawn.interrupted)


def _traced(drawings: Iterable[Drawn], trace: TraceWish) -> Iterator[Drawn]:
    """The same drawings, after the trace of them is on the disk."""
    drawn: list[Drawn] = []
    stopped: KeyboardInterrupt | None = None
    try:
        for one in drawings:
            drawn.append(one)
    except KeyboardInterrupt as stop:
        stopped = stop
    if drawn:
        trace.save(drawn)
    yield from drawn
    if stopped is not None:
        raise stopped

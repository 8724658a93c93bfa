"""What is kept of the latest generations: their latents, for another VAE to decode, and the last one's steps."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vaekit import images
from vaekit.errors import OptionError, OutputError, VaekitError
from vaekit.files import atomic_write
from vaekit.generate.painter import Drawn, Painter
from vaekit.generate.sampling import Step
from vaekit.generate.trace import Trace, TraceFile
from vaekit.generate.trace import load as load_trace
from vaekit.latents import Latents

log = logging.getLogger("vaekit")

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
SMALL = 256
"""Pixels on the longer side of a small picture."""
MOST_TRACE_BYTES = 256 << 20


@dataclass(frozen=True)
class Record:
    """One picture that was drawn. masked: laid over another picture, which its latents do not hold."""

    id: str
    seed: int
    text: str
    vae: str
    model: str
    family: str
    size: tuple[int, int]
    masked: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class History:
    """A folder of latents, each with a record and a small picture; the oldest go."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def add(self, drawn: Drawn, picture: Image.Image, painter: Painter, most: int) -> None:
        """Keep a drawing, and `most` in all. A disk that takes nothing is told, and the drawing goes on."""
        if not most:
            return
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(seconds))}-{rest:08x}"
        vae = painter.resolution.name
        record = Record(
            name,
            drawn.seed,
            str(drawn.text),
            vae,
            painter.model.name,
            drawn.latents.family.name,
            drawn.latents.size,
            drawn.subject is not None and drawn.subject.mask is not None,
        )
        small = picture.convert("RGB")
        small.thumbnail((SMALL, SMALL))
        try:
            with self._lock:
                drawn.latents.save(self._path(name, ".safetensors"))
                images.write(small, self._path(name, ".jpg"))
                with atomic_write(self._path(name, ".json")) as part:
                    part.write_text(json.dumps(record.to_dict(), ensure_ascii=False), "utf-8")
                self._trim(most)
        except (VaekitError, OSError) as error:
            log.warning("not kept for the history: %s", error)

    def records(self) -> list[Record]:
        """The newest first; a broken one is passed over."""
        found = []
        for path in sorted(self.folder.glob("*.json"), reverse=True):
            if ID.fullmatch(path.stem):
                try:
                    told = json.loads(path.read_text("utf-8"))
                    found.append(Record(**told | {"id": path.stem, "size": tuple(told["size"])}))
                except (OSError, ValueError, TypeError, KeyError):
                    log.warning("%s: broken, and passed over", path)
        return found

    def latents(self, name: str) -> Latents:
        """Raises OptionError where there is none, FileError and LatentsError where it is broken."""
        return Latents.load(self.file(name, ".safetensors"))

    def file(self, name: str, suffix: str) -> Path:
        """A file of a record: .safetensors, .jpg. Raises OptionError where there is none."""
        path = self._path(name, suffix) if ID.fullmatch(name) else None
        if path is None or not path.is_file():
            raise OptionError(f"nothing is kept as {name[:40]!r}; the oldest go")
        return path

    def forget(self, name: str | None = None) -> int:
        """Delete one, or all; how many there were. Raises OptionError, OutputError."""
        with self._lock:
            names = [self.file(name, ".json").stem] if name is not None else [one.id for one in self.records()]
            self._delete(names)
            return len(names)

    def _trim(self, most: int) -> None:
        self._delete([one.id for one in self.records()[most:]])

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            for suffix in (".json", ".jpg", ".safetensors"):
                try:
                    self._path(name, suffix).unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(f"{self._path(name, suffix)}: {error.strerror or error}") from error

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"


class Steps:
    """Watches the sampler, and keeps the first picture's steps; of very many large ones every so many."""

    def __init__(self) -> None:
        self._trace = Trace()
        self._seen = False

    def __call__(self, step: Step) -> None:
        bytes_each = 2 * step.denoised[:1].numel() * 4
        every = max(1, -(-step.total * bytes_each // MOST_TRACE_BYTES))
        if (step.number - 1) % every == 0 or step.number == step.total:
            self._seen = True
            self._trace(replace(step, latents=step.latents[:1], denoised=step.denoised[:1]))

    def save(self, path: Path, drawn: Drawn, painter: Painter) -> None:
        """Write them in place of those before. A disk that takes nothing is told, and the drawing goes on."""
        if not self._seen:  # img2img with a strength of 0
            path.unlink(missing_ok=True)
            return
        found = painter.resolution
        named = found.name if found.known else str(found.path)
        try:
            self._trace.save(
                path, drawn.latents.tensor, drawn.latents.family, vae=named, text=str(drawn.text), force=True
            )
        except VaekitError as error:
            log.warning("the steps are not kept: %s", error)


class LastTrace:
    """The steps of the last generation, read again when another one takes their place."""

    def __init__(self, path: Path):
        self.path = path
        self._read: tuple[str, TraceFile] | None = None

    def get(self) -> tuple[str, TraceFile]:
        """A mark that changes with the generation, and the trace. Raises OptionError where there is none."""
        try:
            mark = f"{self.path.stat().st_mtime_ns:x}"
        except OSError as error:
            raise OptionError("no generation was traced yet") from error
        if self._read is None or self._read[0] != mark:
            self._read = mark, load_trace(self.path)
        return self._read

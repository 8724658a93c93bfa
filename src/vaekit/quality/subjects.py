"""What goes through the VAEs of a comparison: pictures, the charts, or latents."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image
from torch import Tensor

from vaekit import images
from vaekit.errors import OptionError
from vaekit.latents import Latents
from vaekit.quality import charts
from vaekit.quality.naming import distinct
from vaekit.quality.result import Kind

Source = images.PictureSource | Latents
Sources = Source | Sequence[Source] | Mapping[str, Source]


@dataclass(frozen=True, eq=False)
class Subject:
    """A source before it is read. read: gives pictures [1, 3, H, W] in [-1, 1], or the latents of one picture each."""

    name: str
    kind: Kind
    read: Callable[[], Sequence[Tensor | Latents]]

    def contents(self) -> list[tuple[str, Tensor | Latents]]:
        """Each picture with its name; those of a batch are numbered. Raises PictureError."""
        contents = self.read()
        names = [self.name] if len(contents) == 1 else [f"{self.name}-{i}" for i in range(len(contents))]
        return list(zip(names, contents, strict=True))


def subjects(sources: Sources, with_charts: bool | None, alpha: str, max_pixels: int) -> list[Subject]:
    """All of them in order, the charts last. Raises OptionError for latents among pictures, or with charts."""
    named = _named(sources)
    latents = {name: source for name, source in named.items() if isinstance(source, Latents)}
    if latents and len(latents) < len(named):
        raise OptionError("pictures and latents are measured against different things; compare them one by one")
    if latents and with_charts:
        raise OptionError("charts are pictures; latents are compared without them")
    if latents:
        return [_of_latents(name, one) for name, one in latents.items()]
    pictures = cast(dict[str, images.PictureSource], named)
    found = [_of_picture(name, one, alpha, max_pixels) for name, one in pictures.items()]
    if with_charts in (True, None):
        found += [_of_chart(charts.COLOURS, charts.colour_chart), _of_chart(charts.TEXT, charts.text_page)]
    return found


def _named(sources: Sources) -> dict[str, Source]:
    if isinstance(sources, Mapping):
        return dict(sources)
    given = list(sources) if isinstance(sources, list | tuple) else [cast(Source, sources)]
    names = [str(one) if isinstance(one, str | os.PathLike) else f"picture {i}" for i, one in enumerate(given, 1)]
    return dict(zip(distinct(names), given, strict=True))


def _of_picture(name: str, source: images.PictureSource, alpha: str, max_pixels: int) -> Subject:
    return Subject(name, "picture", lambda: _each_of(images.read(source, alpha=alpha, max_pixels=max_pixels).pixels))


def _of_chart(name: str, draw: Callable[[], Image.Image]) -> Subject:
    return Subject(name, "chart", lambda: _each_of(images.read(draw()).pixels))


def _of_latents(name: str, latents: Latents) -> Subject:
    return Subject(name, "latents", lambda: list(latents))


def _each_of(pixels: Tensor) -> list[Tensor]:
    return [pixels[i : i + 1] for i in range(len(pixels))]

"""The demo's page: one HTML file with everything inside, that asks nothing of the network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
from markupsafe import Markup
from PIL import Image

from vaekit.demo import drawing
from vaekit.demo.tour import CHANNEL_ZOOM, DemoResult, Journey, Reconstruction, file_name
from vaekit.latents import Latents, draw, stats
from vaekit.latents.stats import Spread

VALUE_STEP = 0.001
"""Latents travel in the page as 16-bit integers in this step: enough for two decimals, up to ±32."""

PALETTES: tuple[draw.Palette, ...] = ("grey", "diverging")


@dataclass(frozen=True)
class ChannelView:
    """One latent channel as data URIs by palette, one pixel per cell, and its statistics."""

    number: int
    pictures: dict[str, str]
    spread: Spread


def write_page(path: Path, result: DemoResult, original: Image.Image, source: Path, *, bundled_photo: bool) -> None:
    """Write index.html. result: journeys in order; the story follows the first one."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vaekit.demo", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        jpeg=jpeg_uri, png=png_uri, number=_number, size=_size, file_name=file_name, signed=_signed
    )
    story = result.journeys[0]
    page = environment.get_template("page.html.j2").render(
        result=result,
        story=story,
        others=result.journeys[1:],
        original=original,
        file_bytes=source.stat().st_size,
        bundled_photo=bundled_photo,
        shrinkage=story.shrinkage,
        channel_views=channel_views,
        palettes=PALETTES,
        planes=_planes(original),
        thumbnail=_thumbnail(original, 640),
        preview=_preview(story),
        values=encode_values(story.latents),
        value_step=VALUE_STEP,
        losses=lambda back: _losses(original, back),
        channel_zoom=CHANNEL_ZOOM,
        css=Markup(_resource("page.css")),
        js=Markup(_resource("page.js")),
    )
    path.write_text(page, "utf-8")


def channel_views(latents: Latents) -> list[ChannelView]:
    drawn = {palette: draw.channels(latents, palette=palette, zoom=1) for palette in PALETTES}
    return [
        ChannelView(index, {palette: png_uri(pictures[index]) for palette, pictures in drawn.items()}, spread)
        for index, spread in enumerate(stats.summary(latents).channels)
    ]


def encode_values(latents: Latents) -> str:
    """The first picture's numbers [C, h, w] as base64 of little-endian 16-bit integers, in VALUE_STEP."""
    steps = (latents.tensor[0].float().cpu() / VALUE_STEP).round().clamp(-32768, 32767)
    return base64.b64encode(steps.to(torch.int16).numpy().astype("<i2").tobytes()).decode("ascii")


def jpeg_uri(picture: Image.Image, quality: int = 90) -> str:
    """A picture inside the page; full colour resolution, so that JPEG adds no colour error of its own to see."""
    return _uri(picture, "jpeg", quality=quality, subsampling=0, optimize=True)


def png_uri(picture: Image.Image) -> str:
    return _uri(picture, "png", optimize=True)


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _planes(original: Image.Image) -> list[tuple[str, Image.Image]]:
    small = _thumbnail(original, 420)
    return list(zip(("red", "green", "blue"), drawing.planes(small), strict=True))


def _thumbnail(picture: Image.Image, side: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _preview(journey: Journey) -> Image.Image | None:
    return draw.preview(journey.latents, zoom=1) if journey.family.preview else None


@dataclass(frozen=True)
class Losses:
    """What one reconstruction lost, drawn."""

    difference: Image.Image
    crops: list[drawing.Crop]


def _losses(original: Image.Image, back: Reconstruction) -> Losses:
    return Losses(drawing.difference(original, back.picture), drawing.worst_crops(original, back.picture))


def _resource(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _number(value: int) -> str:
    return f"{value:,}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _size(value: int) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"

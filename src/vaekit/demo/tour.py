"""A photo through bundled VAEs and back, measured, drawn and told as a page."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vaekit import assets, images
from vaekit.demo import drawing
from vaekit.demo.folder import check_folder, staged_folder
from vaekit.demo.shrinkage import Shrinkage
from vaekit.errors import OptionError
from vaekit.families import Family
from vaekit.latents import Latents, draw
from vaekit.loading import load
from vaekit.quality import Quality, measure

SHOWN = ("mini", "mini-tiny")
"""Bundled VAEs that take the large photo; all of them would take minutes, and `vaekit compare` shows them."""

CHANNEL_ZOOM = 8
"""Pixels per cell in the channel pictures on disk: as large as the photo, for a downscale of 8."""


class Coder(Protocol):
    """What the tour needs of a VAE; `vaekit.VAE` has it."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> Family: ...
    @property
    def can_encode(self) -> bool: ...
    @property
    def can_decode(self) -> bool: ...
    def encode(self, pictures: Any, /) -> Latents: ...
    def decode(self, latents: Latents, /) -> Any: ...


@dataclass(frozen=True)
class Reconstruction:
    """What one VAE made of the latents, how close it is to the photo, and how long that took."""

    name: str
    picture: Image.Image
    seconds: float
    quality: Quality


@dataclass(frozen=True)
class Journey:
    """The photo in one latent space: encoded once, decoded by every VAE of the family."""

    family: Family
    encoder: str
    latents: Latents
    seconds: float
    reconstructions: tuple[Reconstruction, ...]

    @property
    def shrinkage(self) -> Shrinkage:
        """Numbers, bytes and bits per pixel of the photo and of its latents; as a string, one line on them."""
        return Shrinkage.of(self.latents)


@dataclass(frozen=True)
class DemoResult:
    """What the demo left behind. folder: where; page: its index.html; baseline: the quality of shrinking and
    enlarging without any network, by the downscale of the first journey's family."""

    folder: Path
    page: Path
    journeys: tuple[Journey, ...]
    baseline: Quality

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the measures and where the files are, without the pictures."""
        return {
            "folder": str(self.folder),
            "page": str(self.page),
            "baseline": self.baseline.to_dict(),
            "journeys": [_journey_dict(journey) for journey in self.journeys],
        }


def run(
    folder: Path,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    vaes: Sequence[Coder] | None = None,
    photo: Path | None = None,
) -> DemoResult:
    """Take a photo through VAEs and leave pictures and a self-contained index.html in `folder`.

    vaes: those in SHOWN when None. photo: the bundled honey bee when None.
    progress: told in one line what happens next. With `force` a folder that
    is not empty is written into; files of other names in it stay.

    Raises OutputError (the folder is not empty, no permission), OptionError (no VAE).
    """
    from vaekit.demo.page import write_page

    tell = progress or (lambda line: None)
    check_folder(folder, force=force)
    source = photo or assets.photo()
    coders = _shown(tell) if vaes is None else list(vaes)
    if not coders:
        raise OptionError("the demo needs a VAE")
    original = images.to_pil(images.read(source).pixels)[0]
    journeys = tuple(_travel(original, group, tell) for group in _by_family(coders))
    baseline = _shrunk_and_enlarged(original, journeys[0].family.downscale)
    with staged_folder(folder, force=force) as stage:
        tell("Writing the pictures and the page")
        shutil.copyfile(source, stage / f"original{source.suffix}")
        for journey in journeys:
            _write_pictures(stage, original, journey)
        result = DemoResult(folder, folder / "index.html", journeys, measure(original, baseline))
        write_page(stage / "index.html", result, original, source, bundled_photo=photo is None)
    return result


def _shown(tell: Callable[[str], None]) -> list[Coder]:
    tell(f"Loading {', '.join(SHOWN)}")
    return [load(name) for name in SHOWN]


def _by_family(coders: list[Coder]) -> Iterator[list[Coder]]:
    for _, group in groupby(sorted(coders, key=lambda vae: vae.family.name), key=lambda vae: vae.family.name):
        yield list(group)


def _travel(original: Image.Image, vaes: list[Coder], tell: Callable[[str], None]) -> Journey:
    """The first VAE of the family that has an encoder encodes, all that have a decoder decode."""
    first = next((vae for vae in vaes if vae.can_encode), None)
    if first is None or not any(vae.can_decode for vae in vaes):
        family = vaes[0].family.name
        raise OptionError(f"the demo needs an encoder and a decoder of {family}, and these VAEs have only one of them")
    tell(f"Encoding the photo with {first.name}")
    start = time.perf_counter()
    latents = first.encode(original)
    seconds = time.perf_counter() - start
    back = tuple(_return(original, latents, vae, tell) for vae in vaes if vae.can_decode)
    return Journey(first.family, first.name, latents, seconds, back)


def _return(original: Image.Image, latents: Latents, vae: Coder, tell: Callable[[str], None]) -> Reconstruction:
    tell(f"Decoding the latents with {vae.name}")
    start = time.perf_counter()
    picture = vae.decode(latents)
    seconds = time.perf_counter() - start
    tell(f"Measuring what {vae.name} made of it")
    return Reconstruction(vae.name, picture, seconds, measure(original, picture))


def _shrunk_and_enlarged(picture: Image.Image, factor: int) -> Image.Image:
    """The plainest code there is: one pixel per cell. What a VAE has to beat."""
    small = (-(-picture.width // factor), -(-picture.height // factor))
    return picture.resize(small, Image.Resampling.LANCZOS).resize(picture.size, Image.Resampling.LANCZOS)


def _write_pictures(stage: Path, original: Image.Image, journey: Journey) -> None:
    family = file_name(journey.family.name)
    for index, channel in enumerate(draw.channels(journey.latents, zoom=CHANNEL_ZOOM)):
        images.write(channel, stage / f"{family}-channel-{index}.png")
    if journey.family.preview:
        images.write(draw.preview(journey.latents, zoom=CHANNEL_ZOOM), stage / f"{family}-preview.png")
    for back in journey.reconstructions:
        name = file_name(back.name)
        images.write(back.picture, stage / f"{name}-decoded.png")
        images.write(drawing.difference(original, back.picture), stage / f"{name}-difference-x4.png")
        for number, crop in enumerate(drawing.worst_crops(original, back.picture), start=1):
            images.write(drawing.side_by_side(crop.original, crop.result), stage / f"{name}-crop-{number}.png")


def file_name(name: str) -> str:
    """A VAE's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "vae"


def _journey_dict(journey: Journey) -> dict[str, Any]:
    return {
        "family": journey.family.name,
        "encoder": journey.encoder,
        "latents": list(journey.latents.tensor.shape),
        **_shrinkage_dict(journey.shrinkage),
        "encode_seconds": round(journey.seconds, 3),
        "decoded": [
            {"vae": back.name, "decode_seconds": round(back.seconds, 3), **back.quality.to_dict()}
            for back in journey.reconstructions
        ],
    }


def _shrinkage_dict(shrinkage: Shrinkage) -> dict[str, float]:
    return {
        "picture_numbers": shrinkage.picture_numbers,
        "latent_numbers": shrinkage.latent_numbers,
        "ratio": round(shrinkage.ratio, 3),
        "latent_bytes": shrinkage.latent_bytes,
        "bits_per_pixel": round(shrinkage.bits_per_pixel(shrinkage.latent_bytes), 3),
    }

"""The experiments. Each takes latents, does something to them, decodes, and measures against the picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit import images
from vaekit.errors import FamilyError, OptionError
from vaekit.latents import Latents
from vaekit.quality.metrics import measure, psnr
from vaekit.quality.naming import distinct
from vaekit.study.coding import as_good_as, encoded_size, entropy, rounded
from vaekit.study.result import Finding
from vaekit.vae import VAE

log = logging.getLogger("vaekit")

BITS = (8, 6, 4, 3, 2)
NOISE = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations, where latents have about 1."""

MIXTURES = (0.25, 0.5, 0.75)
MOST_CHANNELS = 16
"""Each of which is dropped and swapped; FLUX.2 has 128."""

VISIBLE = 1.0
"""Levels of 255 by which a pixel must change to count as touched."""

SIDE = 512
SEED = 1

Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Touched:
    """What a single cell reaches. seen: pixels (of how many) that change by a level or more when it changes by 1.

    box: (width, height) around them; half, most: how far from the cell's middle, in
    pixels, half and 95% of the squared change lies. map: the change, brightest where most.
    """

    seen: int
    pixels: int
    box: tuple[int, int]
    half: float
    most: float
    map: Image.Image


@dataclass(frozen=True)
class Study:
    """Everything that was found. originals: the pictures as they were studied, by name."""

    vae: str
    family: str
    originals: Mapping[str, Image.Image]
    findings: tuple[Finding, ...]
    touched: Mapping[str, Touched]

    def of(self, picture: str, experiment: str) -> list[Finding]:
        return [one for one in self.findings if (one.picture, one.experiment) == (picture, experiment)]

    def mean(self, experiment: str) -> list[tuple[str, float | None, float, float | None]]:
        """Of each variant: its value, the mean PSNR over pictures, the mean bits per pixel where they were counted."""
        rows = []
        for variant in dict.fromkeys(f.variant for f in self.findings if f.experiment == experiment):
            same = [f for f in self.findings if (f.experiment, f.variant) == (experiment, variant)]
            measured = [f.quality.psnr for f in same if f.quality is not None and np.isfinite(f.quality.psnr)]
            counted = [f.bits_per_pixel for f in same if f.bits_per_pixel is not None]
            mean = float(np.mean(measured)) if measured else float("nan")
            rows.append((variant, same[0].value, mean, float(np.mean(counted)) if counted else None))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        touched = {
            name: {"seen": t.seen, "pixels": t.pixels, "box": list(t.box), "half": t.half, "most": t.most}
            for name, t in self.touched.items()
        }
        findings = [finding.to_dict() for finding in self.findings]
        return {"vae": self.vae, "family": self.family, "touched": touched, "findings": findings}


def study(
    pictures: Sequence[Path],
    vae: VAE,
    others: Sequence[VAE] = (),
    *,
    side: int = SIDE,
    track: Track | None = None,
) -> Study:
    """Study the latents of pictures. Larger ones are shrunk to `side` pixels on the longer side, which is told.

    others: VAEs of the same family, to decode the same latents with. Raises
    OptionError (no picture, a VAE by half), FamilyError (another family),
    PictureError, NumericsError, ResourceError.
    """
    if not pictures:
        raise OptionError("name at least one picture to study")
    if not (vae.can_encode and vae.can_decode):
        raise OptionError(f"{vae.name} is half a VAE; a study goes both ways")
    if side < 16:
        raise OptionError(f"a side of {side} pixels is too small to study; 16 is the least")
    for other in others:
        if not other.family.same_space(vae.family):
            raise FamilyError(f"{other.name} is of {other.family.name}, {vae.name} of {vae.family.name}")
    names = distinct([str(path) for path in pictures])
    originals = {name: _read(path, side) for name, path in zip(names, pictures, strict=True)}
    findings: list[Finding] = []
    touched = {}
    previous: tuple[str, Latents] | None = None
    for name in (track or _untracked)(list(originals), "studying"):
        bench = _Bench(name, originals[name], vae)
        findings += bench.plain()
        for experiment in (bench.rounding, bench.noise, bench.dropping, bench.swapping):
            findings += experiment()
        findings += bench.elsewhere(others)
        touched[name] = bench.touching()
        if previous is not None:
            findings += bench.between(previous[0], originals[previous[0]], previous[1])
        previous = name, bench.latents
    return Study(vae.name, vae.family.name, originals, tuple(findings), touched)


def _read(path: Path, side: int) -> Image.Image:
    picture = images.to_pil(images.read(path, alpha="white").pixels)[0]
    if max(picture.size) > side:
        before = picture.size
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        log.info("%s: shrunk from %d×%d to %d×%d for the study", path, *before, *picture.size)
    return picture


def _untracked(items: Sequence[Any], what: str) -> Iterable[Any]:
    return items


class _Bench:
    """One picture and its latents."""

    def __init__(self, name: str, original: Image.Image, vae: VAE):
        self.name, self.original, self.vae = name, original, vae
        self.latents = vae.encode(original)
        self.area = original.width * original.height
        self.decoded = self._decode(self.latents.tensor)

    def _decode(self, tensor: Tensor, vae: VAE | None = None) -> Image.Image:
        latents = replace(self.latents, tensor=tensor, alpha=None)
        return images.to_pil((vae or self.vae).decode(latents, output="tensor"))[0]

    def _finding(self, experiment: str, variant: str, tensor: Tensor, **more: Any) -> Finding:
        return Finding.of(self.name, experiment, variant, self.original, self._decode(tensor), **more)

    def plain(self) -> Iterator[Finding]:
        """The latents as they are, and what formats for pictures take for as good a picture."""
        plain = Finding.of(self.name, "as it is", "the latents, 16 bits a number", self.original, self.decoded)
        yield replace(plain, bits_per_pixel=16 * self.latents.tensor.numel() / self.area)
        bits, _ = encoded_size(self.original, "PNG", optimize=True)
        yield Finding(self.name, "as good a file", "PNG (exact)", bits_per_pixel=bits / self.area)
        target = psnr(self.original, self.decoded)
        for format in ("JPEG", "WEBP"):
            bits, reached, quality, back = as_good_as(self.original, format, target)
            if reached < target:
                log.info("%s: %s reaches %.2f dB at most, the latents %.2f", self.name, format, reached, target)
            more = {"value": float(quality), "bits_per_pixel": bits / self.area}
            yield Finding.of(self.name, "as good a file", format, self.original, back, **more)

    def rounding(self) -> Iterator[Finding]:
        for bits in BITS:
            tensor, numbers = rounded(self.latents.tensor, bits)
            per_pixel = entropy(numbers) / self.area
            yield self._finding("rounded", f"{bits} bits", tensor, value=bits, bits_per_pixel=per_pixel)

    def noise(self) -> Iterator[Finding]:
        drawn = torch.randn(self.latents.tensor.shape, generator=torch.Generator().manual_seed(SEED))
        for share in NOISE:
            yield self._finding("noise added", f"σ {share:g}", self.latents.tensor + share * drawn, value=share)

    def dropping(self) -> Iterator[Finding]:
        for channel in self._channels():
            tensor = self.latents.tensor.clone()
            tensor[:, channel] = tensor[:, channel].mean()
            yield self._finding("channel dropped", f"channel {channel}", tensor, value=channel)

    def swapping(self) -> Iterator[Finding]:
        channels = self._channels()
        for channel in channels if len(channels) > 1 else []:
            other = (channel + 1) % len(channels)
            order = list(range(self.latents.tensor.shape[1]))
            order[channel], order[other] = other, channel
            tensor = self.latents.tensor[:, order]
            yield self._finding("channels swapped", f"{channel} and {other}", tensor, value=channel)

    def _channels(self) -> range:
        return range(min(MOST_CHANNELS, self.latents.tensor.shape[1]))

    def elsewhere(self, others: Sequence[VAE]) -> Iterator[Finding]:
        for other in others:
            back = self._decode(self.latents.tensor, other)
            yield Finding.of(self.name, "another VAE", other.name, self.original, back)

    def touching(self) -> Touched:
        """Change the middle cell by 1 in every channel, and look which pixels change."""
        _, _, h, w = self.latents.tensor.shape
        changed = self.latents.tensor.clone()
        changed[:, :, h // 2, w // 2] += 1.0
        side = self.vae.family.downscale
        middle = ((h // 2 + 0.5) * side - 0.5, (w // 2 + 0.5) * side - 0.5)
        decode = self.vae.decode
        pair = [decode(replace(self.latents, tensor=t), output="tensor") for t in (self.latents.tensor, changed)]
        return _touched((pair[1] - pair[0])[0] * 127.5, middle)

    def between(self, other: str, picture: Image.Image, latents: Latents) -> Iterator[Finding]:
        """From another picture to this one: latents mixed and decoded, beside pixels mixed.

        Measured against the mixed pixels; the value is how sharp it is beside them.
        """
        if latents.size != self.latents.size:
            picture = picture.resize(self.original.size, Image.Resampling.LANCZOS)
            latents = self.vae.encode(picture)
        a, b = np.asarray(picture, np.float64), np.asarray(self.original, np.float64)
        for share in MIXTURES:
            faded = Image.fromarray(np.rint(a * (1 - share) + b * share).astype(np.uint8))
            mixed = self._decode(torch.lerp(latents.tensor, self.latents.tensor, share))
            sharper = sharpness(mixed) / max(sharpness(faded), 1e-9)
            variant = f"{share:.0%} of it, the rest of {other}"
            yield Finding(self.name, "latents mixed", variant, sharper, measure(faded, mixed), result=mixed)
            yield Finding(self.name, "pixels mixed", variant, 1.0, result=faded)


def sharpness(picture: Image.Image) -> float:
    """Mean squared step from pixel to pixel, in grey levels."""
    grey = np.asarray(picture.convert("L"), np.float64)
    return float(np.mean(np.diff(grey, axis=0) ** 2) + np.mean(np.diff(grey, axis=1) ** 2))


def _touched(change: Tensor, middle: tuple[float, float]) -> Touched:
    """change: [3, H, W] in levels of 255; middle: (y, x) of the cell, in pixels."""
    size = change.abs().amax(0).numpy()
    seen = size >= VISIBLE
    rows, columns = np.nonzero(seen)
    box = (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) if rows.size else (0, 0)
    energy = change.double().square().sum(0).numpy()
    y, x = np.indices(size.shape)
    distance = np.hypot(y - middle[0], x - middle[1])
    order = np.argsort(distance, axis=None)
    grown = np.cumsum(energy.ravel()[order]) / max(float(energy.sum()), 1e-30)
    places = [min(int(np.searchsorted(grown, share)), order.size - 1) for share in (0.5, 0.95)]
    half, most = (float(distance.ravel()[order[place]]) for place in places)
    shown = np.sqrt(size / max(float(size.max()), 1e-9))
    return Touched(int(seen.sum()), seen.size, box, half, most, Image.fromarray(np.rint(shown * 255).astype(np.uint8)))

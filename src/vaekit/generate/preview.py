"""The picture as it forms, at a cost that stays small beside the drawing itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from vaekit import images
from vaekit.errors import OptionError, OutputError
from vaekit.families import Family
from vaekit.generate.sampling import Step
from vaekit.latents import Latents, draw
from vaekit.vae import VAE

log = logging.getLogger("vaekit")

SHARE = 0.05
"""Of the time of a step that previews may take."""

Show = Callable[[Image.Image, Step], None]


class Preview:
    """Watches the sampler and gives a small picture of its estimate, side by side for a batch.

    show: what is done with it. tiny: a tiny VAE of the family to decode with; None
    for the linear RGB factors of families.toml, a pixel per cell, enlarged. A step
    is passed over where previews would take more than SHARE of the time so far; a
    tiny VAE is run once beforehand, which tells how long the first will take.
    Raises OptionError where the family has no factors and no VAE is given.
    """

    def __init__(self, show: Show, family: Family, *, tiny: VAE | None = None):
        if tiny is None and not family.preview:
            raise OptionError(f"{family.name} has no factors for a preview; name a tiny VAE of it")
        if tiny is not None and not tiny.family.same_space(family):
            raise OptionError(f"{tiny.name} is of {tiny.family.name}, what is drawn of {family.name}")
        self.show, self.family, self.tiny = show, family, tiny
        self.per_cell = 0.0 if tiny is None else _seconds_per_cell(tiny)
        self.begun = time.perf_counter()
        self.spent = self.last = 0.0
        self.shown = self.passed_over = 0

    def __call__(self, step: Step) -> None:
        started = time.perf_counter()
        expected = self.last if self.shown else self.per_cell * step.denoised[:, 0].numel()
        if self.spent + expected > SHARE * (started - self.begun):
            self.passed_over += 1
            if step.number == step.total and not self.shown:
                log.info("no preview: one takes %.0f ms, over %.0f%% of this drawing", 1000 * expected, 100 * SHARE)
            return
        self.show(self.picture(step), step)
        self.shown += 1
        cost = time.perf_counter() - started
        self.spent += cost
        self.last = max(cost, 0.8 * self.last)  # a slow one is remembered for a while

    def picture(self, step: Step) -> Image.Image:
        """What the sampler has in mind at that step."""
        side = self.family.downscale
        height, width = step.denoised.shape[2:]
        latents = Latents(step.denoised.cpu(), self.family, (width * side, height * side))
        if self.tiny is None:
            return _beside([draw.preview(latents, index=i, zoom=side) for i in range(len(latents))])
        return _beside(images.to_pil(self.tiny.decode(latents, output="tensor")))


def to_file(path: Path) -> Show:
    """Write each preview over the one before. Raises OutputError for another format; a full disk is told once."""
    images.check_format(path)
    failed = False

    def show(picture: Image.Image, step: Step) -> None:
        nonlocal failed
        try:
            images.write(picture, path, force=True, lasting=False)
        except OutputError as error:
            if not failed:
                log.warning("no preview: %s", error)
            failed = True

    return show


def _seconds_per_cell(tiny: VAE) -> float:
    """Of the latents, to decode; the first run, which sets things up, does not count."""
    latents = torch.zeros(1, tiny.family.latent_channels, 16, 16)
    tiny.decode(latents, output="tensor")
    started = time.perf_counter()
    tiny.decode(latents, output="tensor")
    return (time.perf_counter() - started) / 16**2


def _beside(pictures: list[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row

"""The sample photos through a VAE in float32: what comes back, and what the layers gave on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from vaekit import assets, images
from vaekit.checkpoints.read import Weights
from vaekit.doctor.weights import Peaks, watch
from vaekit.engine.half import Half
from vaekit.errors import NumericsError

Track = Callable[[Sequence[Any]], Iterable[Any]]
"""Gives the items of a sequence one after the other, and shows how far that is."""


@dataclass(frozen=True)
class Samples:
    """originals and decoded: pictures of the same sizes, as many as came back without NaN or infinity; their names."""

    peaks: Peaks
    names: list[str] = field(default_factory=list)
    originals: list[Image.Image] = field(default_factory=list)
    decoded: list[Image.Image] = field(default_factory=list)


def run_samples(weights: Weights, device: torch.device, *, track: Track = iter) -> Samples:
    """Encode the sample photos and decode the means, on a device, watching every layer of both halves.

    A VAE without a decoder encodes only; one without an encoder has nothing to decode, and nothing is run.
    Scaling and shift would cancel out and are left out. Raises ResourceError.
    """
    config = weights.identity.config
    if not config.has_encoder:
        return Samples({})
    plain: dict[str, Any] = {"dtype": torch.float32, "device": device, "engine": "reference"}  # modules are watched
    encoder = Half("encode", config, weights.state, **plain)
    decoder = Half("decode", config, weights.state, **plain) if config.has_decoder else None
    names: list[str] = []
    originals: list[Image.Image] = []
    decoded: list[Image.Image] = []
    with ExitStack() as stack:
        watched = [stack.enter_context(watch(half.network)) for half in (encoder, decoder) if half is not None]
        try:
            for photo in track(assets.sample_photos()):
                read = images.read(photo)
                raw = encoder.encode(images.pad(read.pixels, config.downscale)).mean
                if decoder is not None:
                    decoded += images.to_pil(images.crop(decoder.decode(raw), read.size).clamp(-1, 1).cpu())
                    originals += images.to_pil(read.pixels)
                    names.append(photo.stem)
        except NumericsError:  # the peaks tell where
            pass
    return Samples({layer: largest for peaks in watched for layer, largest in peaks.items()}, names, originals, decoded)

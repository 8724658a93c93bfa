"""Many pictures encoded one after the other: files are read meanwhile, and small ones of one size run together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator

import torch

from vaekit import images
from vaekit.errors import VaekitError
from vaekit.latents import Latents
from vaekit.overlap import AHEAD, attempt, beside, grouped

Ready = images.Pictures | images.PictureSource
"""A picture that was read, or one that is read in its turn."""

READ_AHEAD = 1 << 21
"""Pixels; beside what a larger picture takes the network, reading it is nothing, and it lies in memory for long."""
TOGETHER, BATCH = 1 << 19, 8
"""Pixels, and pictures, that run at once where that is quicker."""


def encoded(
    encode: Callable[[Ready], Latents],
    pictures: Iterable[images.PictureSource],
    *,
    read: Callable[[images.PictureSource], images.Pictures],
    in_turn: bool,
    together: bool,
) -> Iterator[Latents | VaekitError]:
    """What `encode` gives for each, or its VaekitError, in order.

    in_turn: nothing is read before it is needed. together: whether batches are
    quicker, and come out the same as alone.
    """

    def ready(picture: images.PictureSource) -> Ready:
        small = isinstance(picture, str | os.PathLike) and math.prod(images.size_of(picture)) <= READ_AHEAD
        return read(picture) if small else picture

    def most(picture: Ready | VaekitError) -> int:
        if not together or not isinstance(picture, images.Pictures) or not _plain(picture):
            return 1
        return max(1, min(BATCH, TOGETHER // math.prod(picture.size)))

    ahead = 0 if in_turn else BATCH if together else AHEAD
    for group in grouped(beside(ready, pictures, ahead=ahead), most, _alike):
        yield from _group(encode, group)


def _group(encode: Callable[[Ready], Latents], group: list[Ready | VaekitError]) -> Iterator[Latents | VaekitError]:
    """Pictures of one size; or one thing alone, which may be an error that is handed on."""
    if len(group) > 1:
        pixels = torch.cat([one.pixels for one in group if isinstance(one, images.Pictures)])
        at_once = attempt(encode, images.Pictures(pixels, None, ()))
        if not isinstance(at_once, VaekitError):
            yield from at_once
            return
    for one in group:
        yield one if isinstance(one, VaekitError) else attempt(encode, one)


def _alike(one: Ready | VaekitError, other: Ready | VaekitError) -> bool:
    """Whether two pictures may run at once."""
    if not isinstance(one, images.Pictures) or not isinstance(other, images.Pictures):
        return False
    return one.size == other.size and _plain(other)


def _plain(picture: images.Pictures) -> bool:
    """Without transparency, and with nothing to tell: others go alone."""
    return picture.alpha is None and not picture.notes

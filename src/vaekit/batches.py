"""Many pictures encoded, or latents decoded, in turn: files are read meanwhile, small ones of one size run together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from PIL import Image

from vaekit import images
from vaekit.errors import VaekitError
from vaekit.latents import Latents
from vaekit.overlap import AHEAD, attempt, beside, grouped

S = TypeVar("S")
R = TypeVar("R")
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


def decoded(
    decode: Callable[[list[tuple[S, Latents]]], list[R]],
    sources: Iterable[S],
    *,
    read: Callable[[S], Latents],
    in_turn: bool,
    together: bool,
) -> Iterator[R | VaekitError]:
    """What `decode` gives for each source and its latents, or its VaekitError, in order.

    decode: gets one pair, or several whose latents can be decoded `at_once`.
    in_turn, together: as for `encoded`.
    """

    def ready(source: S) -> tuple[S, Latents]:
        return source, read(source)

    def most(one: tuple[S, Latents] | VaekitError) -> int:
        if not together or isinstance(one, VaekitError) or not _single(one[1]):
            return 1
        return max(1, min(BATCH, TOGETHER // math.prod(one[1].size)))

    ahead = 0 if in_turn else BATCH if together else AHEAD
    for group in grouped(beside(ready, sources, ahead=ahead), most, _joinable):
        pairs = [one for one in group if not isinstance(one, VaekitError)]
        at_once = attempt(decode, pairs) if len(pairs) > 1 else None
        if isinstance(at_once, list):
            yield from at_once
            continue
        for one in group:
            alone = one if isinstance(one, VaekitError) else attempt(decode, [one])
            yield alone if isinstance(alone, VaekitError) else alone[0]


def at_once(
    decode: Callable[[Latents], Image.Image | list[Image.Image]], latents: list[Latents]
) -> list[list[Image.Image]]:
    """The pictures of each; several are of one family and size, one picture each without transparency."""
    if len(latents) > 1:
        return [[one] for one in decode(replace(latents[0], tensor=torch.cat([one.tensor for one in latents])))]  # type: ignore[union-attr]
    pictures = decode(latents[0])
    return [pictures if isinstance(pictures, list) else [pictures]]


def _joinable(one: tuple[S, Latents] | VaekitError, other: tuple[S, Latents] | VaekitError) -> bool:
    if isinstance(one, VaekitError) or isinstance(other, VaekitError):
        return False
    (_, first), (_, second) = one, other
    return _single(first) and _single(second) and (first.size, first.family) == (second.size, second.family)


def _single(latents: Latents) -> bool:
    """Of one picture without transparency."""
    return len(latents) == 1 and latents.alpha is None


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

"""From words to what a UNet listens to."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.errors import OptionError
from vaekit.generate import emphasis
from vaekit.generate.models import Model

log = logging.getLogger("vaekit")

MOST_LETTERS = 20_000
"""Of a prompt; about 65 parts of 75 tokens, through all of which each step of the sampler goes."""


NEAR = 20 / 75
"""Of the room of a part: so near its end a comma is where it is cut, as A1111 does it."""

NO_MEAN = 1e-4
"""A mean so many times smaller than the numbers is rounding."""
COMMA = ",</w>"


@dataclass(frozen=True)
class Part:
    """As many tokens as a text encoder takes, with marks of begin and end, and how strong each is."""

    tokens: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Told:
    """A prompt as the networks take it. states: [1, L, D]; pooled: [1, P], of SDXL's second encoder, or None."""

    states: Tensor
    pooled: Tensor | None = None


def clean(prompt: str) -> str:
    """The prompt without control characters (line breaks and tabs stay), which is told.

    Raises OptionError if it is huge or its brackets are too deep.
    """
    if len(prompt) > MOST_LETTERS:
        raise OptionError(f"a prompt of {len(prompt):,} characters; {MOST_LETTERS:,} are the most")
    kept = "".join(
        c for c in prompt if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000)
    )
    if kept != prompt:
        log.info("%d control characters in the prompt were left out", len(prompt) - len(kept))
    emphasis.parse(kept)
    return kept


@torch.no_grad()
def listen(model: Model, prompt: str, negative: str, *, clip_skip: int | None = None) -> tuple[Told, Told]:
    """What the UNet is told to draw, and what to draw away from, of the same length.

    A prompt longer than the text encoder takes goes through it in parts that are
    laid end to end, and emphasis multiplies what comes out, as A1111 does it.
    clip_skip: which layer from the end is listened to, 1 for the last, as A1111
    counts; SDXL always takes the one before the last. Raises OptionError.
    """
    for text in (prompt, negative):
        emphasis.tell_unread(text)
    parts = [[_parts(tokenizer, text) for tokenizer in model.architecture.tokenizers] for text in (prompt, negative)]
    longest = max(len(part) for text in parts for part in text)
    if longest > 1:
        room = _room(model.architecture.tokenizers[0])
        log.info("the prompt takes %d parts of %d tokens", longest, room)
    told = [_told(model, text, longest, clip_skip) for text in parts]
    if model.is_xl and not negative.strip():  # as SDXL was trained
        states, pooled = told[1].states, told[1].pooled
        told[1] = Told(torch.zeros_like(states), None if pooled is None else torch.zeros_like(pooled))
    return told[0], told[1]


def _room(tokenizer: Any) -> int:
    return int(tokenizer.model_max_length) - 2


def _parts(tokenizer: Any, text: str) -> list[Part]:
    """A prompt, cut at every BREAK and where a part is full."""
    sections = [_weighed(tokenizer, section) for section in emphasis.parse(text)]
    if len(sections) > 1 and not sections[-1]:
        sections.pop()
    comma = tokenizer.convert_tokens_to_ids(COMMA)
    return [_filled(tokenizer, part) for section in sections for part in _cut(section, _room(tokenizer), comma)]


def _weighed(tokenizer: Any, section: list[emphasis.Piece]) -> list[tuple[int, float]]:
    """Token numbers and their weights."""
    weighed: list[tuple[int, float]] = []
    for piece in section:
        numbers = tokenizer(piece.text, add_special_tokens=False, verbose=False).input_ids
        weighed += [(number, piece.weight) for number in numbers]
    return weighed


def _cut(weighed: list[tuple[int, float]], room: int, comma: int) -> list[list[tuple[int, float]]]:
    """Parts of at most `room` tokens, cut behind a comma where there is one near the end."""
    parts = []
    while len(weighed) > room:
        last = next((i for i in range(room - 1, -1, -1) if weighed[i][0] == comma), None)
        near = last is not None and room - last <= NEAR * room and weighed[room][0] != comma
        cut = last + 1 if near and last is not None else room
        parts.append(weighed[:cut])
        weighed = weighed[cut:]
    return [*parts, weighed]


def _filled(tokenizer: Any, weighed: list[tuple[int, float]]) -> Part:
    tokens = [tokenizer.bos_token_id, *(number for number, _ in weighed), tokenizer.eos_token_id]
    weights = [1.0, *(weight for _, weight in weighed)]
    length = int(tokenizer.model_max_length)
    return Part(
        tokens + [tokenizer.pad_token_id] * (length - len(tokens)),
        weights + [1.0] * (length - len(weights)),
    )


def _told(model: Model, parts: list[list[Part]], longest: int, clip_skip: int | None) -> Told:
    states: list[Tensor] = []
    pooled: Tensor | None = None
    for encoder, tokenizer, pieces in zip(model.texts, model.architecture.tokenizers, parts, strict=True):
        pieces = pieces + [_filled(tokenizer, [])] * (longest - len(pieces))
        heard = encoder(torch.tensor([one.tokens for one in pieces], device=model.device), output_hidden_states=True)
        state = heard.hidden_states[-2] if model.is_xl else _layer(encoder, heard, clip_skip)
        pooled = heard[0][:1] if model.is_xl else None
        states.append(_emphasised(state, torch.tensor([one.weights for one in pieces], device=model.device)))
    joined = torch.cat([one.reshape(1, -1, one.shape[-1]) for one in states], dim=-1)
    return Told(joined, pooled)


def _emphasised(state: Tensor, weights: Tensor) -> Tensor:
    """States [P, L, D] times the weights of their tokens [P, L], each part's mean restored (A1111's "Original").

    An encoder whose last norm leaves no mean has none to restore: what is there is rounding.
    """
    if bool((weights == 1).all()):
        return state
    before = state.float()
    after = before * weights[..., None]
    means = before.mean((1, 2), keepdim=True), after.mean((1, 2), keepdim=True)
    least = NO_MEAN * before.square().mean((1, 2), keepdim=True).sqrt()
    some = (means[0].abs() > least) & (means[1].abs() > least)
    return (after * torch.where(some, means[0] / means[1], 1.0)).to(state.dtype)


def _layer(encoder: Any, heard: Any, clip_skip: int | None) -> Tensor:
    """The state of that layer from the end, through the last norm."""
    if clip_skip is None or clip_skip == 1:
        state: Tensor = heard.last_hidden_state
        return state
    layers = len(heard.hidden_states) - 1
    if clip_skip > layers:
        raise OptionError(f"clip skip {clip_skip}: this text encoder has {layers} layers")
    inner = getattr(encoder, "text_model", encoder)  # transformers before 5.6 wrapped it
    normed: Tensor = inner.final_layer_norm(heard.hidden_states[-clip_skip])
    return normed

"""From words to what a UNet listens to."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.errors import OptionError
from vaekit.generate.models import Model

log = logging.getLogger("vaekit")

MOST_LETTERS = 20_000
"""Of a prompt; about 65 parts of 75 tokens, through all of which each step of the sampler goes."""


@dataclass(frozen=True)
class Told:
    """A prompt as the networks take it. states: [1, L, D]; pooled: [1, P], of SDXL's second encoder, or None."""

    states: Tensor
    pooled: Tensor | None = None


def clean(prompt: str) -> str:
    """The prompt without control characters (line breaks and tabs stay), which is told. Raises OptionError if huge."""
    if len(prompt) > MOST_LETTERS:
        raise OptionError(f"a prompt of {len(prompt):,} characters; {MOST_LETTERS:,} are the most")
    kept = "".join(
        c for c in prompt if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000)
    )
    if kept != prompt:
        log.info("%d control characters in the prompt were left out", len(prompt) - len(kept))
    return kept


@torch.no_grad()
def listen(model: Model, prompt: str, negative: str, *, clip_skip: int | None = None) -> tuple[Told, Told]:
    """What the UNet is told to draw, and what to draw away from, of the same length.

    A prompt longer than the text encoder takes goes through it in parts that are
    laid end to end, as A1111 does it. clip_skip: which layer from the end is
    listened to, 1 for the last, as A1111 counts; SDXL always takes the one before
    the last. Raises OptionError.
    """
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


def _parts(tokenizer: Any, text: str) -> list[list[int]]:
    """Token numbers, each part with the marks of begin and end and filled up."""
    numbers = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    room = _room(tokenizer)
    pieces = [numbers[i : i + room] for i in range(0, len(numbers), room)] or [[]]
    return [_filled(tokenizer, piece) for piece in pieces]


def _filled(tokenizer: Any, piece: list[int]) -> list[int]:
    marked = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
    return marked + [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(marked))


def _told(model: Model, parts: list[list[list[int]]], longest: int, clip_skip: int | None) -> Told:
    states: list[Tensor] = []
    pooled: Tensor | None = None
    for encoder, tokenizer, pieces in zip(model.texts, model.architecture.tokenizers, parts, strict=True):
        tokens = torch.tensor(pieces + [_filled(tokenizer, [])] * (longest - len(pieces)), device=model.device)
        heard = encoder(tokens, output_hidden_states=True)
        if model.is_xl:
            states.append(heard.hidden_states[-2])
            pooled = heard[0][:1]
        else:
            states.append(_layer(encoder, heard, clip_skip))
    joined = torch.cat([one.reshape(1, -1, one.shape[-1]) for one in states], dim=-1)
    return Told(joined, pooled if model.is_xl else None)


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

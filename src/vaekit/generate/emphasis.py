"""Weights in a prompt as users of A1111 write them.

(x) is 1.1 times as strong, (x:1.3) 1.3 times, [x] 1.1 times weaker; brackets
inside one another multiply. A backslash takes the meaning of a bracket away.
BREAK begins a new part.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from vaekit.errors import OptionError

log = logging.getLogger("vaekit")

STRONGER = 1.1
DEEPEST = 50
"""Brackets inside one another; 1.1 to the power of 50 is 117."""

_MARK = re.compile(
    r"""
    \\(?P<plain>[()\[\]\\]?)                                        # a bracket without its meaning
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)                 # the end of (x:1.3)
    | [()\[\]:]
    | [^\\()\[\]:]+
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_UNREAD = {
    "[a:b:0.5] and [a|b], which change the prompt between steps,": re.compile(
        r"(?<!\\)\[[^\[\]]*(?:\||:\s*\.?\d[\d.]*\s*\])[^\[\]]*\]?"
    ),
    "AND, which mixes prompts,": re.compile(r"\bAND\b"),
    "<lora:NAME:WEIGHT> (LoRA files are named with --lora FILE:WEIGHT)": re.compile(r"<(?:lora|lyco|hypernet):[^>]*>"),
}
"""What A1111 reads in prompts and vaekit does not."""


@dataclass(frozen=True)
class Piece:
    """Words of one weight."""

    text: str
    weight: float = 1.0


def parse(prompt: str) -> list[list[Piece]]:
    """The pieces of each section between BREAKs, in order; brackets that are never closed reach to the end.

    Raises OptionError for more than DEEPEST brackets inside one another.
    """
    found: list[Piece | None] = []  # None for a BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        begin = opened[bracket].pop()
        found[begin:] = [piece and Piece(piece.text, piece.weight * factor) for piece in found[begin:]]

    for mark in _MARK.finditer(prompt):
        text, weight = mark[0], mark["weight"]
        if text.startswith("\\"):
            found.append(Piece(mark["plain"]))
        elif text in opened:
            opened[text].append(len(found))
            if len(opened[text]) > DEEPEST:
                raise OptionError(f"more than {DEEPEST} brackets {text} inside one another in a prompt")
        elif weight and opened["("]:
            close("(", float(weight))
        elif text == ")" and opened["("]:
            close("(", STRONGER)
        elif text == "]" and opened["["]:
            close("[", 1 / STRONGER)
        else:
            first, *others = _BREAK.split(text)
            found += [Piece(first), *(part for other in others for part in (None, Piece(other)))]
    for bracket, factor in (("(", STRONGER), ("[", 1 / STRONGER)):
        while opened[bracket]:
            close(bracket, factor)
    return _sections(found)


def _sections(found: list[Piece | None]) -> list[list[Piece]]:
    """Neighbours of the same weight are one piece, so that no word is cut in two."""
    sections: list[list[Piece]] = [[]]
    for piece in found:
        if piece is None:
            sections.append([])
        elif sections[-1] and sections[-1][-1].weight == piece.weight:
            sections[-1][-1] = Piece(sections[-1][-1].text + piece.text, piece.weight)
        elif piece.text:
            sections[-1].append(piece)
    return sections


def tell_unread(prompt: str) -> None:
    """Warn of what A1111 would read in a prompt, and what is taken as words here."""
    for what, pattern in _UNREAD.items():
        if pattern.search(prompt):
            log.warning("%s in a prompt: taken as words", what)

"""What an examination finds. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vaekit.quality.places import Box

Fault = Literal[
    "broken-weights",
    "broken-output",
    "float16-overflow",
    "not-the-picture",
    "colour-cast",
    "pale",
    "purple-blotches",
    "black",
    "seam",
    "wrong-on-device",
]

Sure = Literal["certain", "likely", "possible"]
"""certain: measured, and no matter of taste. likely: sound ones rarely have it. possible: it may be meant so."""


@dataclass(frozen=True)
class Finding:
    """One fault: what it is, where (a tensor, a layer, a part of the picture), how sure that is, and what to do.

    box: left, top, right and bottom in pixels, where it is in one part of a picture.
    """

    fault: Fault
    what: str
    where: str
    sure: Sure
    advice: str
    box: Box | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def in_words(box: Box) -> str:
    """A box on a picture as people read it."""
    left, top, right, bottom = box
    return f"{right - left}×{bottom - top} pixels at {left},{top}"

"""Washed-out colours of one picture: no black, no white, no strong colour, although there is something to see."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

LIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)

DARKEST, LIGHTEST = 0.17, 0.98
"""A picture with something darker or lighter is not washed out."""
FAINTEST, STRONGEST = 0.02, 0.44
"""Of colour: with less a picture is grey and tells nothing, with more it is not washed out."""
SPREAD, EDGES = 0.03, 0.02
"""Least of both in a picture that shows something: plain grounds have no black either."""


@dataclass(frozen=True)
class Tones:
    """Of a range of 1: the darkest and lightest of all but a thousandth of the pixels, the colour of all but a
    hundredth, how far lightness spreads, and the share of pixels where it changes."""

    darkest: float
    lightest: float
    strongest: float
    spread: float
    edges: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def washed_out(self) -> bool:
        shows = self.spread >= SPREAD and self.edges >= EDGES
        colour = FAINTEST <= self.strongest <= STRONGEST
        return shows and colour and self.darkest >= DARKEST and self.lightest <= LIGHTEST


def measure_tones(picture: Values) -> Tones:
    """Of a picture [H, W, 3] in [0, 1]."""
    light = picture @ LIGHTNESS
    colour = picture.max(axis=2) - picture.min(axis=2)
    across, down = np.abs(np.diff(light, axis=1)), np.abs(np.diff(light, axis=0))
    changes = [float(np.mean(step > 0.01)) for step in (across, down) if step.size]
    return Tones(
        darkest=float(np.percentile(light, 0.1)),
        lightest=float(np.percentile(light, 99.9)),
        strongest=float(np.percentile(colour, 99)),
        spread=float(light.std()),
        edges=float(np.mean(changes)) if changes else 0.0,
    )

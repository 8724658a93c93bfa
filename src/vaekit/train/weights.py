"""How much each term of a VAE's loss counts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt


class Weights(BaseModel):
    """Zero leaves a term out.

    kl is in nats per pixel value; difference in units of L*, summed over
    `scales` (pixels averaged before comparing); smooth counts what comes out
    alone: the more, the softer edges and texture; rim counts the outermost
    pixels of a picture once more; adversarial is a share of the
    reconstruction's gradient at the last layer, from step `adversarial_from` on;
    the adversary learns from the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mse: NonNegativeFloat = 1.0
    l1: NonNegativeFloat = 0.1
    colour: NonNegativeFloat = 1.0
    difference: NonNegativeFloat = 0.0
    scales: tuple[PositiveInt, ...] = (2, 8, 32)
    smooth: NonNegativeFloat = 0.0
    rim: NonNegativeFloat = 0.0
    kl: NonNegativeFloat = 1e-3
    perceptual: NonNegativeFloat = 0.0
    adversarial: NonNegativeFloat = 0.0
    adversarial_from: int = 0

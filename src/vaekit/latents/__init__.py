"""Latents: what a VAE's encoder gives and its decoder takes, and the files they live in."""

from vaekit.latents.core import Latents

__all__ = ["Latents"]

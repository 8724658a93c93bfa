"""How fast a VAE is here, beside every other way to run it that is installed."""

from vaekit.bench.measuring import Settings, run

__all__ = ["Settings", "run"]

"""vaekit: Stable Diffusion's VAEs, their latents, and everything around them.

    import vaekit
    vae = vaekit.load("mini")
    latents = vae.encode("photo.jpg")
    picture = vae.decode(latents)

Names are loaded when they are first used: importing vaekit does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vaekit.version import version

if TYPE_CHECKING:
    from vaekit.catalog.choice import resolve
    from vaekit.checkpoints.inspect import Inspection, inspect
    from vaekit.errors import VaekitError
    from vaekit.families import Family
    from vaekit.latents import Latents
    from vaekit.loading import load
    from vaekit.quality.compare import compare
    from vaekit.quality.metrics import Quality, measure
    from vaekit.vae import VAE

    __version__: str

_HOME = {
    "VAE": "vaekit.vae",
    "Family": "vaekit.families",
    "Inspection": "vaekit.checkpoints.inspect",
    "Latents": "vaekit.latents",
    "Quality": "vaekit.quality.metrics",
    "VaekitError": "vaekit.errors",
    "compare": "vaekit.quality.compare",
    "inspect": "vaekit.checkpoints.inspect",
    "load": "vaekit.loading",
    "measure": "vaekit.quality.metrics",
    "resolve": "vaekit.catalog.choice",
}

__all__ = [
    "VAE",
    "Family",
    "Inspection",
    "Latents",
    "Quality",
    "VaekitError",
    "__version__",
    "compare",
    "inspect",
    "load",
    "measure",
    "resolve",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version()
    if name not in _HOME:
        raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

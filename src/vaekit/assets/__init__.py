"""What ships inside the package: bundled models and sample pictures, each with its card."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from vaekit.errors import OptionError

_PHOTO = "pictures/honey-bee.jpg"
_SAMPLES = ("astronaut", "citrus-fruits", "coffee", "roebling-bridge")


def path(name: str) -> Path:
    """A bundled file or folder by its name inside assets/, with slashes. Raises OptionError if there is none."""
    found = Path(str(resources.files(__name__))).joinpath(*name.split("/"))
    if not found.exists():
        raise OptionError(f"vaekit was installed without its file {name}; install it again")
    return found


def photo() -> Path:
    """The photograph of `vaekit demo`: a honey bee on an aster, 1280×1280 pixels."""
    return path(_PHOTO)


def sample_photos() -> list[Path]:
    """Small photographs to measure with: a face, fruit, a cup, a bridge at night; longer side 512 pixels."""
    return [path(f"pictures/{name}.jpg") for name in _SAMPLES]


def bundled_models() -> list[str]:
    """Names of the VAEs that ship with vaekit, in alphabetical order."""
    models = Path(str(resources.files(__name__))) / "models"
    return sorted(config.parent.name for config in models.glob("*/config.json"))


def bundled_checkpoints() -> list[str]:
    """Names of the text-to-image models that ship with vaekit, in alphabetical order."""
    models = Path(str(resources.files(__name__))) / "models"
    return sorted(index.parent.name for index in models.glob("*/model_index.json"))


def model_folder(name: str) -> Path:
    """The folder of a bundled VAE, in the diffusers layout. Raises OptionError with the nearest names."""
    known = bundled_models()
    if name in known:
        return path(f"models/{name}")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    hint = f"did you mean {' or '.join(near)}?" if near else "none ships with this installation"
    raise OptionError(f"no bundled VAE is called {name!r}; {hint}")

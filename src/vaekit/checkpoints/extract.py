"""A VAE into a file of its own: out of a checkpoint, or in another layout or dtype."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch

from vaekit import families
from vaekit.checkpoints.arrange import arrange, count_rounded
from vaekit.checkpoints.folder import diffusers_config, write_folder
from vaekit.checkpoints.identify import FAMILY_KEY, Identity
from vaekit.checkpoints.layouts import Layout
from vaekit.checkpoints.locate import WEIGHT_SUFFIXES, locate
from vaekit.checkpoints.read import Weights, load, open_vae, read
from vaekit.checkpoints.write import Progress, check_suffix, stored, write
from vaekit.errors import FamilyError, NotAVAEError, OptionError
from vaekit.families import Family
from vaekit.files import check_target
from vaekit.networks.config import KLConfig

NORM_GROUPS = 32
"""Of every published VAE, and what is taken where neither a configuration nor the family tells."""

log = logging.getLogger("vaekit")


@dataclass(frozen=True)
class Extracted:
    """A VAE that stands alone now.

    path: the file, or the folder, that was written; size (bytes) and sha256: of
    the file of weights. dtypes: how many tensors of each. rounded: how many
    lost digits. left: tensors of the source that are not of its VAE.
    """

    path: Path
    size: int
    sha256: str
    layout: Layout
    family: str | None
    dtypes: Mapping[str, int]
    tensors: int
    rounded: int
    left: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"path": str(self.path)}


@dataclass(frozen=True)
class Form:
    """How a VAE is to be written.

    layout and dtype: None keeps them. family: where the source leaves it open; the file's metadata keep it.
    """

    layout: Layout | None = None
    dtype: torch.dtype | None = None
    family: str | None = None


def extract(
    source: Path, output: Path, form: Form = Form(), *, force: bool = False, progress: Progress | None = None
) -> Extracted:
    """Write the VAE of a checkpoint, pipeline or VAE file to a file of its own.

    output: a .safetensors file, or, with layout "diffusers", a folder that
    diffusers loads. Values that stay in their dtype stay bit for bit.

    Raises FileError, UnsafeFileError, NotAVAEError, FamilyError, OptionError
    (among others for a weight beyond float16) and OutputError.
    """
    _check_output(output, form, force)
    return _write_alone(_open(source), output, form, force, progress)


def convert(
    source: Path, output: Path, form: Form = Form(), *, force: bool = False, progress: Progress | None = None
) -> Extracted:
    """Write a VAE file in another layout or dtype, or as safetensors instead of a pickle; its metadata are kept.

    As `extract`, but of a VAE alone: NotAVAEError refuses a checkpoint.
    """
    _check_output(output, form, force)
    opened = _open(source)
    if opened.weights.identity.baked:
        raise NotAVAEError(f"{source}: a whole checkpoint; vaekit extract takes its VAE out")
    return _write_alone(opened, output, form, force, progress)


@dataclass(frozen=True)
class _Opened:
    """config: of the diffusers folder that it came from; others: tensors beside the VAE's."""

    path: Path
    weights: Weights
    metadata: Mapping[str, str]
    config: Mapping[str, Any]
    others: int


def _open(path: Path) -> _Opened:
    location = locate(path)
    source, identity = open_vae(location)
    weights = load(source, identity) if location.decoder is None else read(path)
    others = len(source.tensors) - len(identity.names) - len(weights.unused)
    config = {key: value for key, value in location.config.items() if key != "_pipeline"}
    config = config if "_class_name" in config else {}
    return _Opened(path, weights, {} if identity.baked else source.metadata, config, others)


def _write_alone(opened: _Opened, output: Path, form: Form, force: bool, progress: Progress | None) -> Extracted:
    weights, identity = opened.weights, opened.weights.identity
    belongs = _settle(opened.path, identity, form.family)
    layout = form.layout or identity.layout
    rounded = count_rounded(weights.state, form.dtype) if form.dtype else 0
    entries = {name: stored(t, form.dtype) for name, t in arrange(weights.state, identity.config, layout).items()}
    dtypes = dict(Counter(entry.info.dtype for entry in entries.values()))
    entries |= {name: stored(tensor) for name, tensor in weights.unused.items()}
    metadata = {"format": "pt"} | dict(opened.metadata) | ({FAMILY_KEY: belongs.name} if _is_known(belongs) else {})
    if _is_file(output):
        tell_what_is_lost(output, identity, belongs)
        written = write(output, entries, metadata, force=force, progress=progress)
    else:
        config = opened.config or diffusers_config(identity.config, belongs)
        written = write_folder(output, config, entries, metadata, force=force, progress=progress)
    return Extracted(
        path=output,
        size=written.size,
        sha256=written.sha256,
        layout=layout,
        family=belongs.name if belongs else None,
        dtypes=dtypes,
        tensors=len(entries),
        rounded=rounded,
        left=opened.others,
    )


def _check_output(output: Path, form: Form, force: bool) -> None:
    """Refuse now what could not be written later."""
    if _is_file(output):
        check_suffix(output)
        check_target(output, force=force)
    elif form.layout != "diffusers":
        raise OptionError(f"{output}: name a .safetensors file, or a folder with layout diffusers")


def _is_file(output: Path) -> bool:
    return output.suffix.lower() in WEIGHT_SUFFIXES


def _settle(path: Path, identity: Identity, asked: str | None) -> Family | None:
    """The family that is known, or that the user knows."""
    if asked is None:
        return identity.families[0] if len(identity.families) == 1 else None
    chosen = families.family(asked)
    if chosen not in identity.families:
        fitting = " or ".join(family.name for family in identity.families) or "none that vaekit knows"
        raise FamilyError(f"{path}: cannot be of {asked}: its family is {fitting} by {identity.evidence}")
    return chosen


def _is_known(family: Family | None) -> TypeGuard[Family]:
    return family is not None and family.name in families.families()


def tell_what_is_lost(output: Path, identity: Identity, family: Family | None) -> None:
    """A file alone has no place for some of what a config.json tells."""
    config = identity.config
    lost = []
    if family is not None and not _is_known(family):
        lost.append(f"its scaling factor {family.scaling_factor:g}")
    if isinstance(config, KLConfig) and config.padding_mode != "zeros":
        lost.append(f"its {config.padding_mode} padding")
    usual = family.kl.norm_groups if family is not None and family.kl is not None else NORM_GROUPS
    if isinstance(config, KLConfig) and config.norm_groups != usual:
        lost.append(f"its {config.norm_groups} norm groups")
    if lost:
        log.warning("%s cannot tell %s; a diffusers folder can (layout diffusers)", output.name, " and ".join(lost))

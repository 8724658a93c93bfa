"""A VAE into a checkpoint, in place of the one that is baked into it."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.checkpoints.arrange import arrange, count_rounded
from vaekit.checkpoints.extract import tell_what_is_lost
from vaekit.checkpoints.fingerprint import half_of
from vaekit.checkpoints.identify import Identity, describe_other, identify, surroundings
from vaekit.checkpoints.layouts import Layout, find_naming
from vaekit.checkpoints.locate import locate
from vaekit.checkpoints.nearest import UNRELATED, half_distance
from vaekit.checkpoints.pipelines import BAKED, is_pipeline, latent_channels, write_single_file
from vaekit.checkpoints.read import Weights, load, open_vae, read
from vaekit.checkpoints.sources import SafetensorsSource, Source, open_source
from vaekit.checkpoints.write import Entry, Progress, check_suffix, copied, stored, write
from vaekit.errors import FamilyError, NotAVAEError
from vaekit.files import check_target
from vaekit.networks.config import KLConfig, TinyConfig

log = logging.getLogger("vaekit")


@dataclass(frozen=True)
class Baked:
    """A checkpoint with a VAE baked in.

    kept: tensors copied bit for bit; written: of the new VAE; replaced: of the
    old one, 0 where there was none. dtypes and rounded: of the new VAE, as in Extracted.
    """

    path: Path
    size: int
    sha256: str
    layout: Layout
    prefix: str
    dtypes: Mapping[str, int]
    kept: int
    written: int
    replaced: int
    rounded: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"path": str(self.path)}


def bake(
    checkpoint: Path,
    vae: Path,
    output: Path,
    *,
    dtype: torch.dtype | None = None,
    any_family: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Baked:
    """Write a copy of a checkpoint with another VAE in it; a folder in the layout of diffusers becomes one file.

    Every other tensor is copied bit for bit, and the metadata. The VAE gets the
    names and shapes that the checkpoint's own one has there, or those of the
    ldm layout; dtype None keeps its values. Memory does not grow with the
    checkpoint, but for PyTorch's files of before 2020, which are read whole.
    Where a pickle holds more than tensors (an optimiser's state), that is left.

    Raises FileError, UnsafeFileError, NotAVAEError (no checkpoint, or half a
    VAE), FamilyError (another latent space, unless any_family), OptionError
    (a weight beyond float16) and OutputError.
    """
    check_suffix(output)
    check_target(output, force=force)
    if is_pipeline(checkpoint):
        return _bake_pipeline(checkpoint, vae, output, dtype, any_family, force, progress)
    target = _open_checkpoint(checkpoint)
    source, identity = open_vae(locate(vae))
    _check_fits(target, identity, vae, any_family)
    weights = load(source, identity)
    if len(identity.families) != 1 and not any_family:
        _warn_if_unrelated(target, weights, vae)
    tell_what_is_lost(output, identity, identity.families[0] if len(identity.families) == 1 else None)
    rounded = count_rounded(weights.state, dtype) if dtype else 0
    layout = target.layout or _layout_for(weights)
    new = {name: stored(tensor, dtype) for name, tensor in _named(target, weights, layout).items()}
    dtypes = dict(Counter(entry.info.dtype for entry in new.values()))
    new |= {target.prefix + name: stored(tensor) for name, tensor in weights.unused.items()}
    gone = {*target.names.values(), *new}
    kept = {name: copied(target.source, name) for name in target.source.tensors if name not in gone}
    written = write(output, _in_place(target.source, kept, new), target.metadata, force=force, progress=progress)
    return Baked(
        path=output,
        size=written.size,
        sha256=written.sha256,
        layout=layout,
        prefix=target.prefix,
        dtypes=dtypes,
        kept=len(kept),
        written=len(new),
        replaced=len(target.source.tensors) - len(kept),
        rounded=rounded,
    )


def _bake_pipeline(
    folder: Path,
    vae: Path,
    output: Path,
    dtype: torch.dtype | None,
    any_family: bool,
    force: bool,
    progress: Progress | None,
) -> Baked:
    """The parts of a diffusers folder and a VAE, which may be the folder's own, as one file."""
    weights = read(vae)
    config = weights.identity.config
    if not (isinstance(config, KLConfig) and config.has_encoder and config.has_decoder):
        raise NotAVAEError(f"{vae}: only a kl VAE with both halves is baked into a checkpoint")
    drawn = latent_channels(folder)
    if drawn != config.latent_channels and not any_family:
        raise FamilyError(f"{folder} draws latents of {drawn} channels; {vae} has {config.latent_channels}")
    families = weights.identity.families
    tell_what_is_lost(output, weights.identity, families[0] if len(families) == 1 else None)
    written = write_single_file(folder, weights, output, dtype=dtype, force=force, progress=progress)
    tensors = open_source(output).tensors
    new = [info.dtype for name, info in tensors.items() if name.startswith(BAKED)]
    return Baked(
        path=output,
        size=written.size,
        sha256=written.sha256,
        layout="ldm",
        prefix=BAKED,
        dtypes=dict(Counter(new)),
        kept=len(tensors) - len(new),
        written=len(new),
        replaced=0,
        rounded=count_rounded(weights.state, dtype) if dtype else 0,
    )


@dataclass(frozen=True)
class _Checkpoint:
    """names: our names of its VAE's tensors -> those in the file; families: that it can be of, empty for any."""

    path: Path
    source: Source
    layout: Layout | None
    prefix: str
    names: Mapping[str, str]
    families: frozenset[str]
    evidence: str

    @property
    def metadata(self) -> Mapping[str, str] | None:
        """Pickles have none, and programs expect this one."""
        return (self.source.metadata or None) if isinstance(self.source, SafetensorsSource) else {"format": "pt"}


def _open_checkpoint(path: Path) -> _Checkpoint:
    source = open_source(locate(path).weights)
    naming, around = find_naming(source.tensors), surroundings(source.tensors)
    if naming and not around and (not naming.prefix or len(naming.names) == len(source.tensors)):
        raise NotAVAEError(
            f"{path}: a VAE alone, no checkpoint to bake into; a diffusers pipeline gets one by "
            "vaekit convert VAE -o PIPELINE/vae --layout diffusers"
        )
    if naming is None and not any(name.startswith("model.diffusion_model.") for name in source.tensors):
        raise NotAVAEError(f"{path}: no checkpoint to bake a VAE into ({describe_other(source.tensors)})")
    names, evidence = _families_of(path, source)
    usual = "vae." if "flux1" in names else "first_stage_model."  # as ComfyUI expects them
    return _Checkpoint(
        path=path,
        source=source,
        layout=naming.layout if naming else None,
        prefix=naming.prefix if naming else usual,
        names=naming.names if naming else {},
        families=names,
        evidence=evidence,
    )


def _families_of(path: Path, source: Source) -> tuple[frozenset[str], str]:
    """By the VAE that is in it, with what is around; by what is around where that VAE is missing or broken."""
    try:
        identity = identify(source.tensors, path=path, metadata=source.metadata)
        return frozenset(family.name for family in identity.families), identity.evidence
    except NotAVAEError:
        evidence, names = surroundings(source.tensors) or ("", frozenset[str]())
        return names, evidence


def _check_fits(target: _Checkpoint, identity: Identity, vae: Path, any_family: bool) -> None:
    if isinstance(identity.config, TinyConfig):
        raise NotAVAEError(f"{vae}: a tiny autoencoder; programs look for the whole kind in a checkpoint")
    if not identity.config.has_encoder or not identity.config.has_decoder:
        raise NotAVAEError(f"{vae}: half a VAE; a checkpoint needs encoder and decoder")
    own = {family.name for family in identity.families}
    if own and target.families and not own & target.families and not any_family:
        raise FamilyError(
            f"{vae}: of {' or '.join(sorted(own))} by {identity.evidence}, and {target.path.name} is of "
            f"{' or '.join(sorted(target.families))} by {target.evidence}: pictures would be noise "
            "(--any-family bakes it all the same)"
        )


def _warn_if_unrelated(target: _Checkpoint, weights: Weights, vae: Path) -> None:
    """VAEs of one family are tuned from one another, and most keep the encoder as it was."""
    distance = half_distance(half_of(weights.state, "encoder"), "encoder", target.path) if target.names else None
    if distance is not None and distance >= UNRELATED:
        log.warning(
            "%s has nothing in common with the VAE in %s: it may be of another latent space, and give noise",
            vae.name,
            target.path.name,
        )


def _layout_for(weights: Weights) -> Layout:
    """Where a checkpoint has no VAE to go by. FLUX.2's never had ldm names."""
    config = weights.identity.config
    return weights.identity.layout if isinstance(config, KLConfig) and config.patch_size > 1 else "ldm"


def _named(target: _Checkpoint, weights: Weights, layout: Layout) -> dict[str, Tensor]:
    """The VAE's tensors as the checkpoint has its own: its names, and its shapes of the attention's projections."""
    named = {}
    for ours, tensor in weights.state.items():
        ((usual, arranged),) = arrange({ours: tensor}, weights.identity.config, layout).items()
        name = target.names.get(ours, target.prefix + usual)
        there = target.source.tensors.get(name)
        same_size = there is not None and math.prod(there.shape) == tensor.numel()
        named[name] = arranged.reshape(there.shape) if there is not None and same_size else arranged
    return named


def _in_place(source: Source, kept: Mapping[str, Entry], new: Mapping[str, Entry]) -> dict[str, Entry]:
    """In the checkpoint's own order; what it did not have comes last."""
    entries = {**kept, **new}
    order = [name for name in source.tensors if name in entries] + sorted(new.keys() - source.tensors.keys())
    return {name: entries[name] for name in order}

"""A VAE's weights out of a file, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.checkpoints.architecture import squeeze
from vaekit.checkpoints.identify import Identity, identify
from vaekit.checkpoints.layouts import UNUSED
from vaekit.checkpoints.locate import Location, locate
from vaekit.checkpoints.sources import FLOATS, Source, TensorInfo, open_source
from vaekit.errors import FileError, NotAVAEError
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """A VAE read from disk. state: our names -> tensors on the CPU, in the file's dtypes, all finite.

    unused: what belongs to it and no network needs, the counter of FLUX.2's batch norm.
    """

    identity: Identity
    state: Mapping[str, Tensor]
    unused: Mapping[str, Tensor] = field(default_factory=dict)


def open_vae(location: Location) -> tuple[Source, Identity]:
    """Open one file and tell which VAE it holds; no weight is read yet."""
    source = open_source(location.weights)
    identity = identify(source.tensors, path=location.weights, metadata=source.metadata, config=location.config)
    for name in identity.names.values():
        dtype = source.tensors[name].dtype
        if dtype not in FLOATS:
            raise FileError(f"{location.weights}: {name} holds {dtype}; floating point numbers are needed")
    return source, identity


def read(path: Path, *, decoder: Path | None = None) -> Weights:
    """The VAE in a file, folder or checkpoint; with `decoder`, that half from another file.

    Raises FileError, UnsafeFileError and NotAVAEError, each with one line.
    """
    location = locate(path)
    first = _read_one(location)
    second = decoder or location.decoder
    return first if second is None else _join(first, _read_one(locate(second)), path, second)


def _read_one(location: Location) -> Weights:
    return load(*open_vae(location))


def load(source: Source, identity: Identity) -> Weights:
    """The weights of a VAE that was opened. Raises FileError, for NaN and infinite ones too."""
    unused = {ours: identity.prefix + ours for ours in UNUSED}
    unused = {ours: theirs for ours, theirs in unused.items() if _is_counter(source.tensors.get(theirs))}
    loaded = source.load([*identity.names.values(), *unused.values()])
    state = {ours: loaded[theirs] for ours, theirs in identity.names.items()}
    state = {ours: tensor.reshape(squeeze(ours, tuple(tensor.shape))) for ours, tensor in state.items()}
    _refuse_non_finite(state, source.path)
    return Weights(identity, state, {ours: loaded[theirs] for ours, theirs in unused.items()})


def _is_counter(info: TensorInfo | None) -> bool:
    return info is not None and (info.dtype, info.shape) == ("I64", ())


def _refuse_non_finite(state: Mapping[str, Tensor], path: Path) -> None:
    import torch

    for name, tensor in state.items():
        values = tensor if tensor.element_size() > 1 else tensor.to(torch.float32)
        # a finite sum has finite parts, and takes a tenth of the time
        if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
            raise FileError(f"{path}: {name} holds NaN or infinite values; the file is broken")


def _join(encoder: Weights, decoder: Weights, encoder_path: Path, decoder_path: Path) -> Weights:
    """One VAE out of two files: the encoder of the first, the decoder of the second."""
    if not encoder.identity.config.has_encoder:
        raise NotAVAEError(f"{encoder_path}: has no encoder")
    if not decoder.identity.config.has_decoder:
        raise NotAVAEError(f"{decoder_path}: has no decoder")
    config = _join_configs(encoder.identity.config, decoder.identity.config, decoder_path)
    ours, theirs = encoder.identity.families, decoder.identity.families
    common = tuple(f for f in ours if f in theirs)
    if ours and theirs and not common:
        raise NotAVAEError(f"{decoder_path}: belongs to another latent space than {encoder_path.name}")
    halves = {name: t for name, t in encoder.state.items() if not name.startswith(("decoder.", "post_quant_conv."))}
    halves |= {name: t for name, t in decoder.state.items() if not name.startswith(("encoder.", "quant_conv."))}
    return Weights(replace(encoder.identity, config=config, families=common or ours or theirs), halves)


def _join_configs(encoder: NetworkConfig, decoder: NetworkConfig, path: Path) -> NetworkConfig:
    if encoder.latent_channels != decoder.latent_channels or encoder.downscale != decoder.downscale:
        raise NotAVAEError(
            f"{path}: a decoder for {decoder.latent_channels} channels, the encoder gives {encoder.latent_channels}"
        )
    if isinstance(encoder, KLConfig) and isinstance(decoder, KLConfig):
        if (encoder.norm_groups, encoder.padding_mode) != (decoder.norm_groups, decoder.padding_mode):
            raise NotAVAEError(f"{path}: a decoder with other norms or padding than the encoder")
        return replace(
            encoder,
            decoder_channels=decoder.decoder_channels,
            decoder_blocks=decoder.decoder_blocks,
            decoder_attention=decoder.decoder_attention,
            post_quant_conv=decoder.post_quant_conv,
        )
    if isinstance(encoder, TinyConfig) and isinstance(decoder, TinyConfig):
        return replace(encoder, decoder_blocks=decoder.decoder_blocks, decoder_pooled=decoder.decoder_pooled)
    raise NotAVAEError(f"{path}: a decoder of another kind of network than the encoder")

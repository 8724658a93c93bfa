"""The folders that diffusers loads VAEs from: config.json, and the weights under diffusers' names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit.checkpoints.locate import DIFFUSERS_STEM
from vaekit.checkpoints.write import Entry, Progress, Written, write
from vaekit.errors import FamilyError, OptionError
from vaekit.families import Family
from vaekit.files import atomic_write, check_target
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig

SAMPLE_SIDE = 512
"""Pixels; above it diffusers tiles, where it is asked to."""


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    entries: Mapping[str, Entry],
    metadata: Mapping[str, str] | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write config.json and the weights; gives the file of weights.

    entries: tensors under diffusers' names (arrange). Each file is written
    atomically. Raises OutputError (exists, no permission, disk full).
    """
    weights, settings = folder / f"{DIFFUSERS_STEM}.safetensors", folder / "config.json"
    check_target(settings, force=force)
    written = write(weights, entries, metadata, force=force, progress=progress)
    with atomic_write(settings, force=force) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return written


def diffusers_config(config: NetworkConfig, family: Family | None) -> dict[str, Any]:
    """The config.json of the diffusers class that runs this network in this family's latent space.

    Raises OptionError for a network that no diffusers class runs, and FamilyError
    where its numbers are needed and the family is not known.
    """
    return _tiny_config(config) if isinstance(config, TinyConfig) else _kl_config(config, family)


def _kl_config(config: KLConfig, family: Family | None) -> dict[str, Any]:
    widths, stages = config.encoder_channels, len(config.encoder_channels)
    folded = config.patch_size > 1
    _refuse(not config.has_encoder or not config.has_decoder, "half of a VAE")
    _refuse(config.decoder_blocks != config.encoder_blocks + 1, "a decoder without one block per stage more")
    _refuse(config.decoder_channels != widths and not folded, "a decoder of other widths than the encoder's")
    _refuse(config.encoder_attention != config.decoder_attention, "attention in one half only")
    return {
        "_class_name": "AutoencoderKLFlux2" if folded else "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * stages,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.encoder_blocks,
        "mid_block_add_attention": config.encoder_attention,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "sample_size": SAMPLE_SIDE,
        "up_block_types": ["UpDecoderBlock2D"] * stages,
        "use_post_quant_conv": config.post_quant_conv,
        "use_quant_conv": config.quant_conv,
        **(_folding(config) if folded else _scaling(family)),
        **({"padding_mode": "reflect"} if config.padding_mode == "reflect" else {}),
    }


def _folding(config: KLConfig) -> dict[str, Any]:
    own_widths = config.decoder_channels != config.encoder_channels
    return {
        "batch_norm_eps": 1e-4,
        "batch_norm_momentum": 0.1,
        "patch_size": [config.patch_size] * 2,
        **({"decoder_block_out_channels": list(config.decoder_channels)} if own_widths else {}),
    }


def _scaling(family: Family | None) -> dict[str, Any]:
    """The family's numbers; shift, means and deviations only where it has them."""
    if family is None:
        raise FamilyError("config.json needs a scaling factor, and nothing tells this VAE's latent space: say --family")
    means = {"latents_mean": family.mean, "latents_std": family.std}
    return {
        "scaling_factor": family.scaling_factor,
        **({"shift_factor": family.shift_factor} if family.shift_factor else {}),
        **{key: list(values) for key, values in means.items() if values is not None},
    }


def _tiny_config(config: TinyConfig) -> dict[str, Any]:
    _refuse(not config.has_encoder or not config.has_decoder, "half of a VAE")
    _refuse(config.encoder_pooled or config.decoder_pooled, "a tiny autoencoder with pooled blocks")
    return {
        "_class_name": "AutoencoderTiny",
        "act_fn": "relu",
        "decoder_block_out_channels": [config.width] * len(config.decoder_blocks),
        "encoder_block_out_channels": [config.width] * len(config.encoder_blocks),
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": list(config.decoder_blocks),
        "num_encoder_blocks": list(config.encoder_blocks),
        "out_channels": 3,
        "scaling_factor": 1.0,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    }


def _refuse(it_is_so: bool, what: str) -> None:
    if it_is_so:
        raise OptionError(f"{what}: diffusers has no class for it; write a single file instead")

"""What a file of tensors is: which VAE, in which layout, of which families, and how that is known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaekit.checkpoints.architecture import infer
from vaekit.checkpoints.layouts import Layout, find_naming
from vaekit.checkpoints.sources import TensorInfo
from vaekit.errors import NotAVAEError
from vaekit.families import Family, families
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig

Tensors = Mapping[str, TensorInfo]
Config = Mapping[str, Any]


FAMILY_KEY = "vaekit.family"
"""Metadata of a VAE taken out of what told its family."""

FIRST_DIFFUSERS_WITH_SDXL = 18
"""Minor version; SD 1 and 2 wrote no scaling_factor into their config.json."""


@dataclass(frozen=True)
class Identity:
    """What is known of a VAE before any weight is read.

    names: our name of each tensor -> its name in the file. families: those it
    can belong to, usually one; sd1 and sdxl have the same tensors. evidence:
    what narrowed them, in words. baked: it lies inside a larger checkpoint.
    """

    config: NetworkConfig
    layout: Layout
    prefix: str
    names: Mapping[str, str]
    families: tuple[Family, ...]
    evidence: str
    baked: bool


def identify(
    tensors: Tensors, *, path: Path, metadata: Mapping[str, str] | None = None, config: Config | None = None
) -> Identity:
    """Work out which VAE a file holds.

    path is for messages and, for tiny networks only, evidence; metadata is that
    of a safetensors file, config a diffusers config.json. Raises NotAVAEError.
    """
    config = config or {}
    unknown = _first_match(_OTHER_VAES, tensors)
    if unknown:
        raise NotAVAEError(f"{path}: {unknown}, a kind of VAE that vaekit does not run")
    try:
        naming = find_naming(tensors)
        if naming is None:
            raise NotAVAEError(describe_other(tensors))
        shapes = {ours: tensors[theirs].shape for ours, theirs in naming.names.items()}
        network = infer(shapes, norm_groups=_norm_groups(config))
        around = surroundings(tensors)
        found, evidence = _families(network, around, path, metadata or {}, config)
    except NotAVAEError as error:
        raise NotAVAEError(f"{path}: {error}") from error
    baked = len(tensors) > len(naming.names) and around is not None
    network = _complete(network, found, config)
    return Identity(network, naming.layout, naming.prefix, naming.names, found, evidence, baked)


def _norm_groups(config: Config) -> int | None:
    groups = config.get("norm_num_groups")
    if groups is not None and (not isinstance(groups, int) or isinstance(groups, bool) or groups < 1):
        raise NotAVAEError(f"its config.json gives {_shown(groups)} as norm_num_groups")
    return groups


def _complete(network: NetworkConfig, found: tuple[Family, ...], config: Config) -> NetworkConfig:
    """What no tensor tells: folding and norm groups by the family, padding by the configuration."""
    if isinstance(network, TinyConfig):
        return replace(network, patch_size=found[0].fold if found else 1)
    groups = {family.kl.norm_groups for family in found if family.kl is not None}
    if "norm_num_groups" not in config and len(groups) == 1:
        network = replace(network, norm_groups=groups.pop())
    return replace(network, padding_mode="reflect") if config.get("padding_mode") == "reflect" else network


# Families


def _families(
    network: NetworkConfig, around: Evidence | None, path: Path, metadata: Mapping[str, str], config: Config
) -> tuple[tuple[Family, ...], str]:
    """The families that fit the shapes, narrowed by each kind of evidence in turn."""
    every = families().values()
    by_shape = tuple(f for f in every if _fits(f, network, told=metadata.get(FAMILY_KEY)))
    by_name = tuple(f for f in every if _tells_no_network(f, network))
    if isinstance(network, KLConfig) and network.patch_size == 1 and config.get("scaling_factor") is not None:
        return _by_numbers(network, (by_shape, by_name), config)
    for evidence, names in _evidence(network, around, path, metadata, config):
        narrowed = tuple(f for f in by_shape + by_name if f.name in names)
        if narrowed:
            return narrowed, evidence
    return by_shape, "the shapes of its tensors"


def _fits(family: Family, network: NetworkConfig, told: str | None) -> bool:
    """told: the family by name; a tiny network of it may have another width than is usual there."""
    if isinstance(network, TinyConfig):
        usual = family.tiny_width in (None, network.width) or family.name == told
        if family.tiny != network.latent_channels or not usual:
            return False
        return family.downscale == network.downscale * family.fold
    kl = family.kl
    if kl is None or kl.latent_channels != network.latent_channels or family.fold != network.patch_size:
        return False
    quant_conv = network.quant_conv if network.encoder_channels else network.post_quant_conv
    if kl.downscale * family.fold != network.downscale or kl.quant_conv != quant_conv:
        return False
    # a folded family (FLUX.2) has decoders of several widths and nothing else looks like it
    return family.fold > 1 or (network.encoder_channels or network.decoder_channels) == kl.channels


def _tells_no_network(family: Family, network: NetworkConfig) -> bool:
    """A family that tells nothing of its networks, as a user may write it: its numbers or its name can tell it."""
    space = (network.latent_channels * network.patch_size**2, network.downscale)
    return family.kl is None and family.tiny is None and space == (family.latent_channels, family.downscale)


def _by_numbers(
    network: KLConfig, candidates: Iterable[tuple[Family, ...]], config: Config
) -> tuple[tuple[Family, ...], str]:
    """A config.json that tells the numbers of the latent space decides, a space of its own included."""
    own = _own_family(network, config)
    for fitting in candidates:
        same = tuple(f for f in fitting if _same_numbers(f, own))
        if same:
            return same, f"scaling_factor {own.scaling_factor:g} in its config.json"
    return (own,), f"a latent space of its own: scaling_factor {own.scaling_factor:g} in its config.json"


def _own_family(network: KLConfig, config: Config) -> Family:
    scaling = _number(config["scaling_factor"], "scaling_factor", positive=True)
    shift = config.get("shift_factor")
    mean = _vector(config, "latents_mean", network.latent_channels)
    std = _vector(config, "latents_std", network.latent_channels)
    if (mean is None) != (std is None):
        raise NotAVAEError("its config.json gives only one of latents_mean and latents_std")
    return Family(
        name=f"custom-{network.latent_channels}ch-{scaling:g}",
        title="a latent space of its own",
        latent_channels=network.latent_channels,
        downscale=network.downscale,
        scaling_factor=scaling,
        shift_factor=0.0 if shift is None else _number(shift, "shift_factor"),
        mean=mean,
        std=std,
    )


def _vector(config: Config, key: str, channels: int) -> tuple[float, ...] | None:
    """One number per channel, in a list that some files nest to [1, C, 1, 1]."""
    if config.get(key) is None:
        return None
    flat = tuple(_number(value, key, positive=key == "latents_std") for value in _flat(config[key], depth=4))
    if len(flat) != channels:
        raise NotAVAEError(f"its config.json gives {len(flat)} numbers as {key}, its latents have {channels} channels")
    return flat


def _flat(values: object, depth: int) -> Iterator[object]:
    if isinstance(values, list) and depth:
        for value in values:
            yield from _flat(value, depth - 1)
    else:
        yield values


def _number(value: object, key: str, *, positive: bool = False) -> float:
    least = 1e-6 if positive else -1e6
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1e6:
        raise NotAVAEError(f"its config.json gives {_shown(value)} as {key}")
    return float(value)


def _shown(value: object) -> str:
    return f"{value!r:.40}" if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


def _same_numbers(a: Family, b: Family) -> bool:
    def numbers(family: Family) -> list[float]:
        return [family.scaling_factor, family.shift_factor, *(family.mean or ()), *(family.std or ())]

    pairs = zip(numbers(a), numbers(b), strict=False)
    return len(numbers(a)) == len(numbers(b)) and all(math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-4) for x, y in pairs)


Evidence = tuple[str, frozenset[str]]
Part = str | re.Pattern[str]
"""Of a tensor's name; a line break stands where the name begins or ends."""


def _evidence(
    network: NetworkConfig, around: Evidence | None, path: Path, metadata: Mapping[str, str], config: Config
) -> Iterator[Evidence]:
    if around:
        yield around
    written_by = re.match(r"0\.(\d{1,4})\.", str(config.get("_diffusers_version", "")))
    if written_by and int(written_by[1]) < FIRST_DIFFUSERS_WITH_SDXL:
        yield "a config.json older than SDXL", frozenset(("sd1",))
    pipeline = str(config.get("_pipeline", ""))
    for start, names in _PIPELINES:
        if pipeline.startswith(start):
            yield f"its pipeline, {pipeline[:60]}", frozenset(names)
    if FAMILY_KEY in metadata:
        yield f"{FAMILY_KEY} in its metadata", frozenset((metadata[FAMILY_KEY],))
    architecture = metadata.get("modelspec.architecture", "").lower()
    for start, names in _MODELSPEC:
        if architecture.startswith(start):
            yield f"modelspec.architecture {architecture[:60]!r} in its metadata", frozenset(names)
    if isinstance(network, TinyConfig):
        yield from _tiny_names(path)


def families_of_pipeline(name: str) -> tuple[str, ...]:
    """The families that a pipeline class of diffusers draws in; none for one that is not known."""
    return next((names for start, names in _PIPELINES if name.startswith(start)), ())


_PIPELINES = (
    ("StableDiffusionXL", ("sdxl",)),
    ("StableDiffusion3", ("sd3",)),
    ("StableDiffusionUpscale", ("upscaler4x",)),
    ("StableDiffusion", ("sd1",)),
    ("Flux2", ("flux2",)),
    ("Flux", ("flux1",)),
)
_MODELSPEC = (
    ("stable-diffusion-xl", ("sdxl",)),
    ("stable-diffusion-v1", ("sd1",)),
    ("stable-diffusion-v2", ("sd1",)),
    ("stable-diffusion-3", ("sd3",)),
    ("flux-1", ("flux1",)),
    ("flux.1", ("flux1",)),
    ("flux1", ("flux1",)),
    ("flux-2", ("flux2",)),
    ("flux.2", ("flux2",)),
)
_TINY_NAMES = (("taesdxl", "sdxl"), ("taesd3", "sd3"), ("taef1", "flux1"), ("taef2", "flux2"), ("taesd", "sd1"))
_SURROUNDINGS = (
    ("Playground's edm_mean in the checkpoint", ("\nedm_mean\n",), ("playground25",)),
    ("SDXL's text encoders in the checkpoint", ("\nconditioner.embedders.",), ("sdxl",)),
    ("SD 1/2's text encoder in the checkpoint", ("\ncond_stage_model.",), ("sd1", "upscaler4x")),
    ("SD3's transformer in the checkpoint", ("\nmodel.diffusion_model.joint_blocks.",), ("sd3",)),
    (
        "FLUX's transformer in the checkpoint",
        ("\nmodel.diffusion_model.double_blocks.", "\ndouble_blocks."),
        ("flux1", "flux2"),
    ),
    ("SDXL's UNet in the checkpoint", ("\nmodel.diffusion_model.label_emb.",), ("sdxl",)),
    ("SD 1/2's UNet in the checkpoint", ("\nmodel.diffusion_model.input_blocks.",), ("sd1",)),
)


def surroundings(tensors: Tensors) -> Evidence | None:
    """The model around a baked VAE tells its family."""
    names = _lines(tensors)
    for words, parts, of in _SURROUNDINGS:
        if any(part in names for part in parts):
            return words, frozenset(of)
    return None


def _tiny_names(path: Path) -> Iterator[Evidence]:
    """TAESD's files are told apart by name alone: their own code does so, and nothing in them differs."""
    for part in (path.name.lower(), path.parent.name.lower()):
        for word, name in _TINY_NAMES:
            if word in part:
                yield f"{word!r} in its name", frozenset((name,))


# Files that hold something else


_OTHER_VAES = (
    ("OpenAI's consistency decoder", ("\ndecoder_unet.",)),
    ("a DC-AE autoencoder (Sana)", (".op_list.", re.compile(r"\nencoder\.down_blocks\.\d+\.\d+\."))),
    ("a video VAE (Wan or Qwen-Image)", ("\nencoder.middle.", "\ndecoder.middle.")),
)
_OTHERS = (
    ("a LoRA", ("\nlora_", ".lora_", "lora_A.")),
    ("a ControlNet", ("\ncontrol_model.", "\ncontrolnet_", "\ninput_hint_block.")),
    ("a textual inversion", ("\nemb_params\n", "\nstring_to_param\n", "\nclip_g\n", "\nclip_l\n")),
    ("a T5 text encoder", ("encoder.block.0.layer.",)),
    ("an upscaler (ESRGAN type)", ("RRDB_trunk", ".rdb1.", ".RDB1.")),
    ("a checkpoint without a baked VAE", ("\ncond_stage_model.", "\nconditioner.")),
    ("a CLIP text encoder", ("text_model.",)),
    ("a UNet or transformer alone", ("\nmodel.diffusion_model.", "\ndouble_blocks.", "\njoint_blocks.")),
    ("a diffusers UNet", ("\ndown_blocks.", "\nup_blocks.", "\ntime_embedding.")),
)


def describe_other(tensors: Tensors) -> str:
    """One line on a file that holds no VAE."""
    if not tensors:
        return "holds no tensors"
    words = _first_match(_OTHERS, tensors)
    return f"{words}, not a VAE" if words else f"no VAE in it ({len(tensors)} tensors, {min(tensors)[:80]!r} for one)"


def _first_match(rows: Iterable[tuple[str, tuple[Part, ...]]], tensors: Tensors) -> str | None:
    names = _lines(tensors)
    return next((words for words, parts in rows if any(_is_in(names, part) for part in parts)), None)


def _is_in(names: str, part: Part) -> bool:
    return part in names if isinstance(part, str) else part.search(names) is not None


def _lines(tensors: Tensors) -> str:
    """The names, each between two line breaks: one search through all of them is far faster than one in each."""
    return "\n".join(("", *tensors, ""))

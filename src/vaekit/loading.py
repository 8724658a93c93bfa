"""From a name or path to a VAE that is ready to run."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor

from vaekit import assets, families, images
from vaekit.catalog.library import scan
from vaekit.checkpoints.identify import Identity
from vaekit.checkpoints.read import Weights, read
from vaekit.engine.half import Direction, Half
from vaekit.engine.int8 import Int8, settle
from vaekit.engine.placement import Dtype, place
from vaekit.errors import FamilyError, FileError, NumericsError, OptionError
from vaekit.families import Family
from vaekit.networks.config import KLConfig, NetworkConfig, PaddingMode
from vaekit.vae import VAE

log = logging.getLogger("vaekit")

FARTHEST = math.log(1.5)
"""How far the measured spread may be from a family's."""
CLEARER = 1.6
"""So many times farther must the next family be: sd1 and sdxl, a factor of 1.40 apart, are told up to 1.14."""

SAMPLE_SIDE = 192


def load(
    source: str | os.PathLike[str],
    *,
    decoder: str | os.PathLike[str] | None = None,
    family: Family | str | None = None,
    padding: PaddingMode | None = None,
    device: str | torch.device = "auto",
    dtype: Dtype | None = None,
    encode_dtype: Dtype | None = None,
    decode_dtype: Dtype | None = None,
    engine: str = "auto",
    quality: str = "full",
    attention_window: int | None = None,
) -> VAE:
    """Load a VAE: one by its name (bundled, on this disk), or a file, diffusers folder or checkpoint by path.

    decoder: take the decoder from this file (TAESD comes in two files). family:
    only where the file leaves it open. padding: "reflect" for EQ-VAEs trained
    so, which no file tells, "circular" for seamless pictures. dtype: of both
    directions; encode_dtype and decode_dtype of one. engine: "auto" takes the
    fastest that is there and says so; "reference" is the plain network, with no
    optimisation. quality: "fast" is int8 with OpenVINO on a CPU, which keeps at
    least 40 dB against float32 on the sample photos; the first load of a VAE
    measures that, later ones find it in the user's cache folder. attention_window:
    cells attend to so many rows of cells above and below their own only, which is
    not what the VAE gives but takes far less time for huge pictures. Format, layout
    and architecture are worked out.

    Raises FileError, UnsafeFileError, NotAVAEError, FamilyError, OptionError.
    """
    path = find(source)
    placement = place(
        device, dtype=dtype, encode_dtype=encode_dtype, decode_dtype=decode_dtype, engine=engine, quality=quality
    )
    weights = read(path, decoder=None if decoder is None else find(decoder))
    weights = replace(weights, identity=_with_window(_with_padding(weights.identity, padding), attention_window))
    name = str(source) if str(source) in assets.bundled_models() else path.name
    vae = VAE(name, _settle_family(name, weights, family), weights.identity.config, weights.state, placement)
    if vae.placement.quality == "fast":
        dtypes: dict[Direction, torch.dtype] = {"encode": vae.placement.encode_dtype}
        if vae.can_decode:
            dtypes["decode"] = vae.placement.decode_dtype
        whole = vae.fingerprint.vae
        int8 = {way: calibrated(vae.config, vae.weights, whole, way, dtype) for way, dtype in dtypes.items()}
        vae = VAE(vae.name, vae.family, vae.config, vae.weights, vae.placement, int8)
    log.info("%s", vae.describe())
    return vae


def calibrated(
    config: NetworkConfig, state: Mapping[str, Tensor], fingerprint: str, direction: Direction, dtype: torch.dtype
) -> Int8:
    """How one half is run in int8. Raises OptionError where the network cannot make its own latents."""
    if not config.has_encoder:
        raise OptionError(
            "this VAE only decodes, and quality fast is calibrated with latents that it makes itself; "
            "load it with its encoder"
        )

    def half(direction: Direction, dtype: torch.dtype) -> Half:
        return Half(direction, config, state, dtype=dtype, device=torch.device("cpu"), engine="openvino")

    def photos() -> list[Tensor]:
        return [images.pad(images.read(photo).pixels, config.downscale) for photo in assets.sample_photos()]

    def latents() -> list[Tensor]:
        wide = half("encode", torch.float32)
        return [wide.encode(x).mean for x in photos()]

    return settle(half(direction, dtype), fingerprint, photos if direction == "encode" else latents)


def find(source: str | os.PathLike[str]) -> Path:
    """The path behind a bundled name, a path, or the exact name of a VAE on this disk or in the catalog.

    Nothing is fetched. Raises FileError with the nearest names, and where a name
    stands for several VAEs, or for one that is not on this disk.
    """
    name = os.fspath(source)
    if name in assets.bundled_models():
        return assets.model_folder(name)
    if name in assets.bundled_checkpoints():
        return assets.path(f"models/{name}")
    path = Path(name).expanduser()
    return path if os.path.lexists(path) or os.sep in name or path.suffix else _on_this_disk(name)


def _on_this_disk(name: str) -> Path:
    library = scan()
    try:
        entries, published = library.about(name)
    except OptionError as error:
        raise FileError(f"{name[:100]!r} is neither a file here nor a VAE's name: {error}") from error
    found = [library.fingerprint(entry) for entry in entries if entry.kind in ("vae", "checkpoint")]
    if not found and published is not None:
        raise FileError(f"{name} is not on this disk; `vaekit vae pull {name}` fetches it")
    if len({entry.fingerprint for entry in found}) != 1:
        raise FileError(f"{name!r} is the name of {len(found)} different files; give a path: vaekit vae show {name}")
    return found[0].path


def _with_padding(identity: Identity, padding: PaddingMode | None) -> Identity:
    if padding is None:
        return identity
    if padding not in get_args(PaddingMode):
        raise OptionError(f"no padding is called {padding!r}; there are {', '.join(get_args(PaddingMode))}")
    if not isinstance(identity.config, KLConfig):
        raise OptionError("padding is a choice of kl networks only; this one is tiny")
    return replace(identity, config=replace(identity.config, padding_mode=padding))


def _with_window(identity: Identity, window: int | None) -> Identity:
    if window is None:
        return identity
    config = identity.config
    if not isinstance(config, KLConfig) or not (config.encoder_attention or config.decoder_attention):
        raise OptionError("an attention window would do nothing here: this network has no attention")
    if window < 1:
        raise OptionError(f"an attention window is a number of rows of cells from 1 on, not {window}")
    if config.padding_mode == "circular":
        raise OptionError("an attention window needs strips, and seamless pictures are run in one piece only")
    return replace(identity, config=replace(config, attention_window=window))


# The family


def _settle_family(name: str, weights: Weights, asked: Family | str | None) -> Family:
    identity = weights.identity
    if asked is not None:
        return _asked_family(name, identity, families.family(asked) if isinstance(asked, str) else asked)
    if len(identity.families) == 1:
        log.info("%s: family %s by %s", name, identity.families[0].name, identity.evidence)
        return identity.families[0]
    if not identity.families:
        raise FamilyError(f"{name}: nothing tells its latent space and scaling factor; say family=/--family")
    measurable = [f for f in identity.families if f.mean is None]
    if isinstance(identity.config, KLConfig) and identity.config.has_encoder:
        return _measured_family(name, identity.config, weights.state, measurable)
    raise FamilyError(f"{name}: {_either(identity.families)} look alike in its tensors; say which: family=/--family")


def _asked_family(name: str, identity: Identity, asked: Family) -> Family:
    config = identity.config
    channels = config.latent_channels * config.patch_size**2
    if (asked.latent_channels, asked.downscale) != (channels, config.downscale):
        raise FamilyError(
            f"{name} cannot be of {asked.name}: it has {channels} channels at 1/{config.downscale} of the side, "
            f"{asked.name} has {asked.latent_channels} at 1/{asked.downscale}"
        )
    if identity.families and asked not in identity.families:
        others = _either(identity.families)
        log.warning("%s: taken as %s as asked, though %s says %s", name, asked.name, identity.evidence, others)
    return asked


def _either(candidates: tuple[Family, ...] | list[Family]) -> str:
    return " and ".join(family.name for family in candidates)


def _measured_family(name: str, config: KLConfig, state: Mapping[str, Tensor], candidates: list[Family]) -> Family:
    """The family whose scaling brings the latents of the sample photos to a standard deviation near 1."""
    spreads = _spreads(config, state, candidates)
    away = {name: abs(math.log(spread)) for name, spread in spreads.items()}
    best, *others = sorted(candidates, key=lambda family: away[family.name])
    measured = ", ".join(f"{spread:.2f} as {family}" for family, spread in spreads.items())
    next_away = min((away[family.name] for family in others), default=math.inf)
    if away[best.name] > FARTHEST or away[best.name] * CLEARER > next_away:
        raise FamilyError(
            f"{name}: {_either(candidates)} look alike in its tensors, and the latents of the sample photos do not "
            f"decide (standard deviation {measured}; 1 is right); say which: family=/--family"
        )
    sure = "surely" if away[best.name] * 2 * CLEARER < next_away else "probably"
    log.info("%s: %s family %s: the sample photos' latents spread by %s (1 is right)", name, sure, best.name, measured)
    return best


def _spreads(config: KLConfig, state: Mapping[str, Tensor], candidates: list[Family]) -> dict[str, float]:
    """Standard deviation of the sample photos' latents under each family's scaling; infinite where it says nothing."""
    encoder = Half("encode", config, state, dtype=torch.float32, device=torch.device("cpu"))
    try:
        raw = torch.cat([encoder.encode(_sample(photo)).mean.flatten(2) for photo in assets.sample_photos()], dim=2)
    except NumericsError:
        return {family.name: math.inf for family in candidates}
    spreads = {family.name: family.scale(raw.unsqueeze(2)).std().item() for family in candidates}
    return {family: spread if spread > 0 else math.inf for family, spread in spreads.items()}


def _sample(photo: Path) -> Tensor:
    """A sample photo small enough to be encoded in a moment, [1, 3, SAMPLE_SIDE, SAMPLE_SIDE] in [-1, 1]."""
    with Image.open(photo) as picture:
        return images.read(picture.convert("RGB").resize((SAMPLE_SIDE, SAMPLE_SIDE))).pixels

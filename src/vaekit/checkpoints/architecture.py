"""From the names and shapes of a VAE's tensors to the network they belong to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

from vaekit.errors import NotAVAEError
from vaekit.networks.config import KLConfig, NetworkConfig, Shape, Shapes, TinyConfig

TINY_STAGES = 4
MOST_STAGES = 8
MOST_LAYERS = 100
"""Layers or blocks in a row; published networks have 20. A name is free to claim any number."""


def infer(shapes: Mapping[str, Shape], *, norm_groups: int | None = None) -> NetworkConfig:
    """The configuration whose tensors these are, names as in vaekit.networks.config.

    norm_groups is the one number that no shape tells; None takes the 32 of every
    published VAE. Raises NotAVAEError when tensors are missing, left over or of
    another shape than the rest implies.
    """
    squeezed = {name: squeeze(name, shape) for name, shape in shapes.items()}
    tiny = "encoder.0.weight" in shapes or "decoder.1.weight" in shapes
    try:
        config = _infer_tiny(squeezed) if tiny else _infer_kl(squeezed, norm_groups or 32)
    except (KeyError, IndexError, ValueError) as error:
        raise NotAVAEError(f"looks like a VAE, but not of a kind that vaekit knows (at {str(error)[:80]})") from error
    _compare(_expected(config), squeezed)
    return config


@lru_cache(maxsize=32)
def _expected(config: NetworkConfig) -> Shapes:
    """A library's hundreds of files hold networks of a few configurations."""
    return config.shapes()


def squeeze(name: str, shape: Shape) -> Shape:
    """Attention weights come as [C, C], [C, C, 1] or [C, C, 1, 1]: always the last."""
    is_projection = ".attn_1." in name and name.endswith(".weight") and ".norm." not in name
    return (*shape, 1, 1)[:4] if is_projection and len(shape) in (2, 3) else shape


def _compare(expected: Shapes, found: Mapping[str, Shape]) -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise NotAVAEError(f"incomplete: {len(missing)} of {len(expected)} tensors are missing, {missing[0]} for one")
    left = sorted(found.keys() - expected.keys())
    if left:
        one = left[0][:80]
        raise NotAVAEError(f"not a kind of VAE that vaekit knows: it has {len(left)} tensors more, {one!r} for one")
    for name, shape in expected.items():
        if 0 in shape:
            raise NotAVAEError(f"{name} is empty: {list(shape)}")
        if found[name] != shape:
            raise NotAVAEError(f"{name} is {list(found[name][:6])} where {list(shape)} belongs")


def _infer_kl(shapes: Mapping[str, Shape], norm_groups: int) -> KLConfig:
    encoder, decoder = "encoder.conv_in.weight" in shapes, "decoder.conv_in.weight" in shapes
    channels = (
        _two_d(shapes, "decoder.conv_in.weight")[1] if decoder else _two_d(shapes, "encoder.conv_out.weight")[0] // 2
    )
    config = KLConfig(
        latent_channels=channels,
        encoder_channels=_widths(shapes, "encoder.down") if encoder else (),
        decoder_channels=_widths(shapes, "decoder.up") if decoder else (),
        encoder_blocks=_count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        decoder_blocks=_count(shapes, r"decoder\.up\.0\.block\.(\d+)\."),
        norm_groups=norm_groups,
        encoder_attention="encoder.mid.attn_1.q.weight" in shapes,
        decoder_attention="decoder.mid.attn_1.q.weight" in shapes,
        quant_conv="quant_conv.weight" in shapes,
        post_quant_conv="post_quant_conv.weight" in shapes,
        patch_size=_patch_size(shapes, channels),
    )
    odd = [width for width in (*config.encoder_channels, *config.decoder_channels) if width % norm_groups]
    if odd:
        raise NotAVAEError(f"{odd[0]} channels do not divide into {norm_groups} groups: its config.json is needed")
    return config


def _two_d(shapes: Mapping[str, Shape], name: str) -> Shape:
    shape = shapes[name]
    if len(shape) != 4:
        raise NotAVAEError(f"{name} is {list(shape[:6])}: a video VAE or another kind that vaekit does not know")
    return shape


def _widths(shapes: Mapping[str, Shape], stages: str) -> tuple[int, ...]:
    count = _count(shapes, re.escape(stages) + r"\.(\d+)\.")
    if not 1 <= count <= MOST_STAGES:
        raise NotAVAEError(f"not a kind of VAE that vaekit knows: {count} stages under {stages}")
    return tuple(_two_d(shapes, f"{stages}.{i}.block.0.conv1.weight")[0] for i in range(count))


def _count(names: Mapping[str, Shape], pattern: str) -> int:
    found = re.findall(rf"\n{pattern}", "\n".join(("", *names)))  # one search through all names, for speed
    count = 1 + max(map(int, found), default=-1)
    if count > MOST_LAYERS:
        raise NotAVAEError(f"not a kind of VAE that vaekit knows: over {MOST_LAYERS} layers in a row")
    return count


def _patch_size(shapes: Mapping[str, Shape], channels: int) -> int:
    if "bn.running_mean" not in shapes or channels < 1:
        return 1
    return max(math.isqrt(shapes["bn.running_mean"][0] // channels), 1)


def _infer_tiny(shapes: Mapping[str, Shape]) -> TinyConfig:
    encoder, decoder = _tiny_stages(shapes, "encoder", 1), _tiny_stages(shapes, "decoder", 3)
    last = _count(shapes, r"encoder\.(\d+)\.") - 1
    channels = shapes["decoder.1.weight"][1] if decoder else shapes[f"encoder.{last}.weight"][0]
    return TinyConfig(
        latent_channels=channels,
        width=shapes["decoder.1.weight" if decoder else "encoder.0.weight"][0],
        encoder_blocks=encoder,
        decoder_blocks=decoder,
        encoder_pooled=any(".pool." in name for name in shapes if name.startswith("encoder.")),
        decoder_pooled=any(".pool." in name for name in shapes if name.startswith("decoder.")),
    )


def _tiny_stages(shapes: Mapping[str, Shape], half: str, first: int) -> tuple[int, ...]:
    """Blocks per stage, in the file's order: a convolution without bias changes the resolution."""
    last = _count(shapes, half + r"\.(\d+)\.") - 1
    if last < 0:
        return ()
    stages = [0]
    for index in range(first, last):
        if f"{half}.{index}.conv.0.weight" in shapes:
            stages[-1] += 1
        elif f"{half}.{index}.weight" in shapes:
            stages.append(0)
    if len(stages) != TINY_STAGES:
        raise NotAVAEError(f"a tiny autoencoder of another kind than TAESD: {len(stages)} stages in its {half}")
    return tuple(stages)

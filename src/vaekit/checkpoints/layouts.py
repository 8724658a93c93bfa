"""How files name a VAE's tensors, translated to the original names that our networks use.

The layouts: `ldm` (CompVis/latent-diffusion; SD 1.x to FLUX.1 in single files),
`diffusers` (new and old attention names, AutoencoderTiny), `flux` (FLUX.2's own
file: ldm names with the quantisation convolutions inside encoder and decoder)
and `taesd` (the numbers of an nn.Sequential, split files or not).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vaekit.errors import NotAVAEError

Layout = Literal["ldm", "diffusers", "flux", "taesd"]

KNOWN_PREFIXES = ("", "first_stage_model.", "vae.", "model.first_stage_model.", "autoencoder.", "model.", "module.")
"""Where checkpoints keep their VAE; the first that fits wins."""

PART = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv|bn)\.")


UNUSED = ("bn.num_batches_tracked",)
"""A counter for training, in the files of FLUX.2's VAEs."""


@dataclass(frozen=True)
class Naming:
    """names: our name of each of the VAE's tensors -> its name in the file."""

    layout: Layout
    prefix: str
    names: Mapping[str, str]


def find_naming(file_names: Iterable[str]) -> Naming | None:
    """The VAE among the tensors of a file, by their names alone; None where there is none.

    Raises NotAVAEError when two of them are the same tensor under two names.
    """
    known = set(file_names)
    return _find_kl(known) or _find_tiny(known)


def _find_kl(known: set[str]) -> Naming | None:
    for prefix in _kl_prefixes(known):
        inside = {
            short: name
            for name in known
            if name.startswith(prefix) and PART.match(short := name[len(prefix) :]) and short not in UNUSED
        }
        layout, translate = _kl_translation(inside)
        return Naming(layout, prefix, _translate(inside, translate))
    return None


def _translate(inside: Mapping[str, str], translate: Callable[[str], str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for short, name in inside.items():
        ours = translate(short)
        if ours in names:
            raise NotAVAEError(f"has {ours} twice, under two names")
        names[ours] = name
    return names


def _kl_prefixes(known: set[str]) -> list[str]:
    ends = ("encoder.conv_in.weight", "decoder.conv_in.weight")
    found = {name[: -len(ends[0])] for name in known if name.endswith(ends)}  # both are of one length
    return sorted(found, key=lambda p: (KNOWN_PREFIXES.index(p) if p in KNOWN_PREFIXES else len(KNOWN_PREFIXES), p))


def _kl_translation(inside: Mapping[str, str]) -> tuple[Layout, Callable[[str], str]]:
    if any(".mid_block." in short or "_blocks." in short for short in inside):
        stages = 1 + max((int(i) for i in _numbers(r"decoder\.up_blocks\.(\d{1,3})\.", inside)), default=0)
        return "diffusers", lambda short: _from_diffusers(short, stages)
    if any(short.startswith(("encoder.quant_conv.", "decoder.post_quant_conv.")) for short in inside):
        return "flux", lambda short: re.sub(r"^(en|de)coder\.((post_)?quant_conv\.)", r"\2", short)
    return "ldm", lambda short: short


def _numbers(pattern: str, names: Iterable[str]) -> set[str]:
    return {match[1] for name in names if (match := re.match(pattern, name))}


# Ours and diffusers' name of each part; # is a number.
_PARTS = (
    (".down.#.block.", ".down_blocks.#.resnets."),
    (".down.#.downsample.", ".down_blocks.#.downsamplers.0."),
    (".up.#.block.", ".up_blocks.#.resnets."),
    (".up.#.upsample.", ".up_blocks.#.upsamplers.0."),
    (".mid.block_1.", ".mid_block.resnets.0."),
    (".mid.block_2.", ".mid_block.resnets.1."),
    (".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."),
    (".mid.attn_1.q.", ".mid_block.attentions.0.to_q."),
    (".mid.attn_1.k.", ".mid_block.attentions.0.to_k."),
    (".mid.attn_1.v.", ".mid_block.attentions.0.to_v."),
    (".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."),
    (".norm_out.", ".conv_norm_out."),
    (".nin_shortcut.", ".conv_shortcut."),
)
_OLD_PARTS = (
    (".mid.attn_1.q.", ".mid_block.attentions.0.query."),
    (".mid.attn_1.k.", ".mid_block.attentions.0.key."),
    (".mid.attn_1.v.", ".mid_block.attentions.0.value."),
    (".mid.attn_1.proj_out.", ".mid_block.attentions.0.proj_attn."),
)


def _rule(old: str, new: str) -> tuple[re.Pattern[str], str]:
    return re.compile(re.escape(old).replace(r"\#", r"(\d+)")), new.replace("#", r"\1")


_FROM_DIFFUSERS = tuple(_rule(theirs, ours) for ours, theirs in _PARTS + _OLD_PARTS)
_TO_DIFFUSERS = tuple(_rule(ours, theirs) for ours, theirs in _PARTS)


def _from_diffusers(name: str, stages: int) -> str:
    for pattern, ours in _FROM_DIFFUSERS:
        name = pattern.sub(ours, name)
    # diffusers counts the decoder's stages from the latents up, the original from full resolution down
    return re.sub(r"^decoder\.up\.(\d{1,3})\b", lambda match: f"decoder.up.{stages - 1 - int(match[1])}", name)


def to_diffusers(name: str, stages: int) -> str:
    """The name that diffusers' AutoencoderKL gives one of our KL tensors; stages: of the decoder."""
    name = re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up.{stages - 1 - int(match[1])}", name)
    for pattern, theirs in _TO_DIFFUSERS:
        name = pattern.sub(theirs, name)
    return name


def to_layout(name: str, layout: Layout, stages: int) -> str:
    """The name of one of our tensors in files of that layout; stages: of a KL decoder."""
    if layout == "flux":
        return re.sub(r"^(quant|post_quant)_conv\.", lambda match: _FLUX_PLACES[match[1]] + match[0], name)
    if layout != "diffusers":
        return name
    tiny = re.match(r"(encoder|decoder)\.(\d+)\.", name)
    if tiny is None:
        return to_diffusers(name, stages)
    index = int(tiny[2]) - (tiny[1] == "decoder")  # AutoencoderTiny clamps outside its layers
    return f"{tiny[1]}.layers.{index}.{name[tiny.end() :]}"


_FLUX_PLACES = {"quant": "encoder.", "post_quant": "decoder."}


def _find_tiny(known: set[str]) -> Naming | None:
    diffusers = _tiny_diffusers(known)
    if diffusers:
        return Naming("diffusers", "", diffusers)
    for encoder, decoder in (("taesd_encoder.", "taesd_decoder."), ("encoder.", "decoder.")):
        names = _numbered(known, encoder, "encoder.") | _numbered(known, decoder, "decoder.")
        if {"encoder.0.weight", "decoder.1.weight"} & names.keys():
            return Naming("taesd", encoder.removesuffix("encoder."), names)
    return _split_tiny(known)


def _tiny_diffusers(known: set[str]) -> dict[str, str]:
    names = _numbered(known, "encoder.layers.", "encoder.")
    for ours, theirs in _numbered(known, "decoder.layers.", "").items():
        index, rest = ours.split(".", 1)
        names[f"decoder.{int(index) + 1}.{rest}"] = theirs
    return names


def _split_tiny(known: set[str]) -> Naming | None:
    """TAESD's separate files: only the decoder begins with a layer that has no weights."""
    half = "encoder." if "0.weight" in known else "decoder."
    names = _numbered(known, "", half)
    if {"encoder.0.weight", "decoder.1.weight"} & names.keys():
        return Naming("taesd", "", names)
    return None


def _numbered(known: set[str], prefix: str, ours: str) -> dict[str, str]:
    pattern = re.compile(re.escape(prefix) + r"(\d+\..+)")
    return {ours + match[1]: name for name in known if (match := pattern.fullmatch(name))}

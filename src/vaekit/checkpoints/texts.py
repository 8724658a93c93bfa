"""Text encoders inside checkpoints: transformers' names of their tensors, and where these lie in a file.

SD 1.x and the first encoder of SDXL are OpenAI's CLIP as transformers writes it;
SD 2.x and the second of SDXL are open_clip's, which keeps the attention's three
projections in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaekit.checkpoints.sources import Source, TensorInfo
from vaekit.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.", "conditioner.embedders.1.model.")

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_INSIDE = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OUTSIDE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies. third: of three that were stacked; turned: it is stored transposed."""

    name: str
    third: int | None = None
    turned: bool = False


def find_texts(names: Iterable[str]) -> list[str]:
    """The prefixes of the text encoders in a checkpoint, in the order in which the model uses them."""
    known = sorted({*CLIP, *OPEN_CLIP}, key=lambda prefix: ("embedders.1" in prefix, prefix))
    listed = list(names)
    return [prefix for prefix in known if any(name.startswith(prefix) for name in listed)]


def place_of(ours: str, prefix: str, there: Mapping[str, TensorInfo]) -> Place:
    """Where a text encoder's tensor lies in a checkpoint. ours: its name in transformers. Raises FileError."""
    stem = ours.removeprefix("text_model.")
    if prefix in CLIP:
        candidates = [Place(prefix + "text_model." + stem), Place(prefix + stem)]
    else:
        candidates = _in_open_clip(stem, prefix)
    found = next((place for place in candidates if place.name in there), None)
    if found is None:
        raise FileError(f"it has no {candidates[0].name}, which its text encoder needs")
    return found


def _in_open_clip(stem: str, prefix: str) -> list[Place]:
    if stem == "text_projection.weight":
        return [Place(prefix + "text_projection", turned=True), Place(prefix + "text_projection.weight")]
    if stem in _OUTSIDE:
        return [Place(prefix + _OUTSIDE[stem])]
    layer = _LAYER.fullmatch(stem)
    if layer is None:
        return [Place(prefix + stem)]
    block = f"{prefix}transformer.resblocks.{layer[1]}."
    if layer[2] in _THIRDS:
        return [Place(f"{block}attn.in_proj_{layer[3]}", third=_THIRDS[layer[2]])]
    return [Place(f"{block}{_INSIDE.get(layer[2], layer[2])}.{layer[3]}")]


def read_text(source: Source, ours: Iterable[str], prefix: str) -> dict[str, Tensor]:
    """The tensors of a text encoder under transformers' names. Raises FileError where one is missing."""
    places = {name: place_of(name, prefix, source.tensors) for name in ours}
    loaded = source.load({place.name for place in places.values()})
    state = {}
    for name, place in places.items():
        tensor = loaded[place.name]
        if place.third is not None:
            tensor = tensor.chunk(3)[place.third]
        state[name] = tensor.T.contiguous() if place.turned else tensor
    return state

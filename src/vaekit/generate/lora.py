"""LoRA files, added to the weights of the networks they were trained for (Hu et al. 2021, arXiv:2106.09685).

kohya's names (`lora_unet_…lora_down.weight`, with `alpha`) and those of diffusers
and peft (`unet.….lora_A.weight`, `unet.….lora.down.weight`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vaekit.checkpoints.pipelines import shape_of_unet, unet_name
from vaekit.checkpoints.sources import open_source
from vaekit.errors import FileError, OptionError
from vaekit.generate.models import Model

log = logging.getLogger("vaekit")

ENDS = {
    "down": (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight"),
    "up": (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight"),
    "alpha": (".alpha",),
}
PARTS = ("lora_unet_", "unet.", "lora_te1_", "lora_te_", "text_encoder.", "lora_te2_", "text_encoder_2.")


@dataclass(frozen=True)
class Lora:
    """A file, and how much of it: 1 as it was trained."""

    path: Path
    weight: float = 1.0

    @staticmethod
    def parse(text: str) -> Lora:
        """FILE or FILE:WEIGHT. Raises OptionError for a weight that is none."""
        name, colon, weight = text.rpartition(":")
        if not colon or Path(text).exists():
            return Lora(Path(text).expanduser())
        try:
            value = float(weight)
        except ValueError:
            return Lora(Path(text).expanduser())
        if not -100 < value < 100:
            raise OptionError(f"--lora {text}: the weight is a number about 1")
        return Lora(Path(name).expanduser(), value)


@dataclass
class _Change:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    names: list[str] = field(default_factory=list)

    def matrix(self, shape: torch.Size) -> Tensor:
        """up · down, scaled by alpha / rank, in the shape of the weight that it changes."""
        assert self.down is not None and self.up is not None
        up, down = self.up.float(), self.down.float()
        rank = down.shape[0]
        scale = 1.0 if self.alpha is None else self.alpha / rank
        return (up.flatten(1) @ down.flatten(1)).reshape(shape) * scale


@torch.no_grad()
def apply(model: Model, lora: Lora) -> None:
    """Add a LoRA to a model's weights.

    Raises FileError: missing, no LoRA, for another kind of model, of a kind that
    vaekit does not know (LoHa, LoKr, DoRA).
    """
    changes = _read(lora.path)
    modules = dict(_modules(model))
    missing = [name for name in changes if name not in modules]
    if missing:
        raise FileError(
            f"{lora.path}: {len(missing)} of its {len(changes)} layers are not in {model.name} ({missing[0][:80]}): "
            "a LoRA for another kind of model"
        )
    for name, change in changes.items():
        weight = modules[name].get_parameter("weight")
        assert change.down is not None and change.up is not None
        if (
            change.up.shape[0] * change.down[0].numel() != weight.numel()
            or change.up[0].numel() != change.down.shape[0]
        ):
            raise FileError(f"{lora.path}: {name[:80]} does not fit {model.name}: a LoRA for another kind of model")
        weight.data = (weight.float() + lora.weight * change.matrix(weight.shape).to(weight.device)).to(weight.dtype)
    log.info("%s: added to %d layers with weight %g", lora.path, len(changes), lora.weight)


def _read(path: Path) -> dict[str, _Change]:
    source = open_source(path)
    changes: dict[str, _Change] = {}
    unknown = [name for name in source.tensors if re.search(r"\.(hada|lokr|dora_scale)", name)]
    if unknown:
        raise FileError(f"{path}: a LoRA of another kind ({unknown[0][:80]}), which vaekit does not apply")
    wanted = {name: found for name in source.tensors if (found := _role(name)) is not None}
    if not wanted:
        raise FileError(f"{path}: no LoRA for a UNet or a text encoder in it")
    loaded = source.load(wanted)
    for name, (layer, role) in wanted.items():
        change = changes.setdefault(layer, _Change())
        change.names.append(name)
        if role == "alpha":
            change.alpha = float(loaded[name].float().item())
        else:
            setattr(change, role, loaded[name])
    for layer, change in changes.items():
        if change.down is None or change.up is None:
            raise FileError(f"{path}: {layer[:80]} is there by half")
        if not all(bool(torch.isfinite(t.float()).all()) for t in (change.down, change.up)):
            raise FileError(f"{path}: {layer[:80]} holds NaN or infinite values; the file is broken")
    return changes


def _role(name: str) -> tuple[str, str] | None:
    """The layer that a tensor belongs to, in one spelling, and what it is there."""
    for role, ends in ENDS.items():
        for end in ends:
            part = next((part for part in PARTS if name.startswith(part)), None)
            if name.endswith(end) and part is not None:
                layer = name.removesuffix(end).removeprefix(part).removeprefix("base_model.model.")
                return f"{_network(part)} {layer.replace('.', '_').removeprefix('text_model_')}", role
    return None


def _network(part: str) -> str:
    if "unet" in part:
        return "unet"
    return "text 2" if "2" in part else "text 1"


def _modules(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with a weight, under the names that LoRA files have for it: diffusers' and the original ones."""
    blocks, attention_up = shape_of_unet(model.unet.config)
    for name, module in _weighted(model.unet):
        yield f"unet {name.replace('.', '_')}", module
        original = unet_name(f"{name}.weight", blocks, attention_up).removesuffix(".weight")
        yield f"unet {original.replace('.', '_')}", module
    for number, encoder in enumerate(model.texts, 1):
        for name, module in _weighted(encoder):
            yield f"text {number} {name.removeprefix('text_model.').replace('.', '_')}", module


def _weighted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module

"""LoRA files of every naming change the weights by up · down, scaled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vaekit.checkpoints.pipelines import shape_of_unet, unet_name
from vaekit.errors import FileError, OptionError
from vaekit.generate.lora import Lora, apply
from vaekit.generate.models import Model, load_model

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "mid_block.resnets.0.conv1"
TEXT = "encoder.layers.0.mlp.fc1"


@pytest.fixture
def model(folder: Path) -> Model:
    return load_model(folder, device="cpu")


def parts(model: Model) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, network in ((LAYER, model.unet), (CONV, model.unet), (TEXT, model.texts[0])):
        weight = network.get_submodule(name).weight
        up = torch.randn(weight.shape[0], 2, *(1,) * (weight.ndim - 2), generator=generator)
        made[name] = (torch.randn(2, *weight.shape[1:], generator=generator), up)
    return made


def names(style: str, name: str, model: Model) -> tuple[str, str, str]:
    """The names of down, up and alpha."""
    if style == "kohya":
        stem = ("lora_te_text_model_" if name == TEXT else "lora_unet_") + name.replace(".", "_")
        return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"
    if style == "original":
        if name == TEXT:
            stem = "lora_te1_text_model_" + name.replace(".", "_")
        else:
            original = unet_name(f"{name}.weight", *shape_of_unet(model.unet.config)).removesuffix(".weight")
            stem = "lora_unet_" + original.replace(".", "_")
        return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"
    stem = f"text_encoder.text_model.{name}" if name == TEXT else f"unet.{name}"
    if style == "peft":
        return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha"
    return f"{stem}.lora.down.weight", f"{stem}.lora.up.weight", f"{stem}.alpha"


@pytest.mark.parametrize("style", ["kohya", "original", "peft", "diffusers"])
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_the_weights_are_those_of_the_formula(
    model: Model, folder: Path, tmp_path: Path, style: str, alpha: float | None
) -> None:
    tensors = {}
    for name, (down, up) in parts(model).items():
        keys = names(style, name, model)
        tensors |= {keys[0]: down, keys[1]: up} | ({} if alpha is None else {keys[2]: torch.tensor(alpha)})
    save_file(tensors, tmp_path / "lora.safetensors")
    apply(model, Lora(tmp_path / "lora.safetensors", 0.5))
    before = load_model(folder, device="cpu")
    scale = 0.5 * (1.0 if alpha is None else alpha / 2)
    for name, (down, up) in parts(model).items():
        pairs = [(net.texts[0] if name == TEXT else net.unet).get_submodule(name).weight for net in (model, before)]
        change = torch.einsum("or,r...->o...", up.flatten(1), down) * scale
        assert torch.allclose(pairs[0], pairs[1] + change, atol=1e-4), name
    assert torch.equal(model.unet.conv_in.weight, before.unet.conv_in.weight)


def test_a_lora_for_another_model_is_refused_and_changes_nothing(model: Model, folder: Path, tmp_path: Path) -> None:
    for name, tensors in {
        "layers": {
            "lora_unet_nowhere.lora_down.weight": torch.zeros(2, 4),
            "lora_unet_nowhere.lora_up.weight": torch.zeros(4, 2),
        },
        "shapes": dict(zip(names("kohya", LAYER, model)[:2], (torch.zeros(2, 999), torch.zeros(9, 2)), strict=True)),
    }.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(FileError, match="another kind of model"):
            apply(model, Lora(tmp_path / f"{name}.safetensors"))
    before = load_model(folder, device="cpu").unet.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())


def test_what_is_no_lora_or_half_of_one_is_refused(model: Model, tmp_path: Path) -> None:
    down, up, _ = names("kohya", LAYER, model)
    for tensors, told in (
        ({"weight": torch.zeros(2)}, "no LoRA"),
        ({down: torch.zeros(2, 32)}, "by half"),
        ({down.replace("lora_down", "hada_w1_a"): torch.zeros(2, 32)}, "another kind"),
        ({down: torch.full((2, 32), float("nan")), up: torch.zeros(64, 2)}, "NaN"),
    ):
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(FileError, match=told):
            apply(model, Lora(tmp_path / "lora.safetensors"))


def test_a_weight_stands_behind_a_colon(tmp_path: Path) -> None:
    assert Lora.parse("a.safetensors:0.8") == Lora(Path("a.safetensors"), 0.8)
    assert Lora.parse("a.safetensors") == Lora(Path("a.safetensors"), 1.0)
    assert Lora.parse("c:a.safetensors").path == Path("c:a.safetensors")
    with pytest.raises(OptionError):
        Lora.parse("a.safetensors:nan")

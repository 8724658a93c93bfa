"""One VAE under the names that different programs give its tensors is one VAE."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints.making import KL, TINY, half_of, in_diffusers_names, kl_state, numbered, save_safetensors, tiny_state
from torch import Tensor

from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.read import read
from vaekit.errors import NotAVAEError


def check(state: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> str:
    """Read a state from a file; the layout it was found in."""
    weights = read(save_safetensors(state, folder / "vae.safetensors"))
    assert weights.state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights.state[name], tensor), name
    return weights.identity.layout


@pytest.mark.parametrize("dims", [2, 3, 4])
@pytest.mark.parametrize("old", [False, True])
def test_diffusers_names_are_translated(dims: int, old: bool, tmp_path: Path) -> None:
    state = kl_state()
    assert check(in_diffusers_names(state, old=old, dims=dims), state, tmp_path) == "diffusers"


@pytest.mark.parametrize("dims", [2, 3, 4])
def test_attention_weights_of_any_form_are_read_under_original_names(dims: int, tmp_path: Path) -> None:
    state = kl_state()
    given = {n: t.reshape(t.shape[:dims]) if ".attn_1." in n and t.dim() == 4 else t for n, t in state.items()}
    assert check(given, state, tmp_path) == "ldm"


def test_quantisation_convolutions_inside_the_halves_are_found(tmp_path: Path) -> None:
    state = kl_state()
    places = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    given = {f"{places.get(n.split('.')[0], n.split('.')[0])}.{n.split('.', 1)[1]}": t for n, t in state.items()}
    assert check(given, state, tmp_path) == "flux"


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.", "model.first_stage_model.", "somewhere.else."])
def test_a_vae_inside_a_checkpoint_is_found_and_nothing_else_of_it(prefix: str, tmp_path: Path) -> None:
    state = kl_state()
    others = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(4),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.ones(2, dtype=torch.int64),
        f"{prefix}loss.logvar": torch.full((1,), torch.nan),
        "model_ema.decay": torch.ones(()),
    }
    given = {f"{prefix}{name}": tensor for name, tensor in state.items()} | others
    check(given, state, tmp_path)
    found = inspect(tmp_path / "vae.safetensors")[0]
    assert found.identity.baked
    assert found.identity.prefix == prefix
    assert found.other_tensors == len(others)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("diffusers", [False, True])
def test_one_half_alone_is_read_and_says_so(half: str, diffusers: bool, tmp_path: Path) -> None:
    state = half_of(kl_state(), half)
    check(in_diffusers_names(state) if diffusers else state, state, tmp_path)
    found = inspect(tmp_path / "vae.safetensors")[0].to_dict()
    assert (found["encoder"], found["decoder"]) == (half == "encoder", half == "decoder")
    assert not found["baked"]


@pytest.mark.parametrize("layout", ["whole", "prefixed", "diffusers"])
def test_tiny_networks_are_read_in_each_layout(layout: str, tmp_path: Path) -> None:
    state = tiny_state()
    given = {
        "whole": state,
        "prefixed": {f"taesd_{name}": tensor for name, tensor in state.items()},
        "diffusers": {_tiny_diffusers(name): tensor for name, tensor in state.items()},
    }[layout]
    assert check(given, state, tmp_path) == ("diffusers" if layout == "diffusers" else "taesd")


def _tiny_diffusers(name: str) -> str:
    half, index, rest = name.split(".", 2)
    return f"{half}.layers.{int(index) - (half == 'decoder')}.{rest}"


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_tiny_half_with_bare_numbers_is_read(half: str, tmp_path: Path) -> None:
    state = tiny_state()
    expected = {name: tensor for name, tensor in state.items() if name.startswith(half)}
    assert check(numbered(state, half), expected, tmp_path) == "taesd"


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    state = in_diffusers_names(kl_state())
    state |= in_diffusers_names(kl_state(1), old=True)
    with pytest.raises(NotAVAEError, match="twice, under two names"):
        read(save_safetensors(state, tmp_path / "vae.safetensors"))


def test_what_the_networks_expect_is_what_is_read(tmp_path: Path) -> None:
    for config, state in ((KL, kl_state()), (TINY, tiny_state())):
        found = read(save_safetensors(state, tmp_path / "vae.safetensors"))
        assert found.identity.config == config
        assert {name: tuple(tensor.shape) for name, tensor in found.state.items()} == config.shapes()


# Names and shapes that lead nowhere


@pytest.mark.parametrize(
    "name",
    [
        "encoder.down.0.block.99999999999.conv1.weight",
        "encoder.down.99999999999.block.0.conv1.weight",
        "encoder.down.0.block.٣.conv1.weight",
        "decoder.up." + "9" * 5000 + ".block.0.conv1.weight",
        "decoder.up_blocks." + "9" * 5000 + ".resnets.0.conv1.weight",
        "decoder.up_blocks.99999999999.resnets.0.conv1.weight",
    ],
)
@pytest.mark.parametrize("diffusers", [False, True])
def test_a_name_that_claims_an_endless_network_is_refused(name: str, diffusers: bool, tmp_path: Path) -> None:
    state = in_diffusers_names(kl_state()) if diffusers else kl_state()
    path = save_safetensors(state | {name: torch.ones(32, 32, 3, 3)}, tmp_path / "vae.safetensors")
    with pytest.raises(NotAVAEError) as refused:
        read(path)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["encoder.99999999999.weight", "decoder.99999999999.conv.0.weight"])
def test_a_name_that_claims_an_endless_tiny_network_is_refused(name: str, tmp_path: Path) -> None:
    path = save_safetensors(tiny_state() | {name: torch.ones(8, 8, 3, 3)}, tmp_path / "vae.safetensors")
    with pytest.raises(NotAVAEError):
        read(path)


def test_tensors_without_any_number_are_refused(tmp_path: Path) -> None:
    state = {name: tensor[:0] for name, tensor in kl_state().items()}
    with pytest.raises(NotAVAEError):
        read(save_safetensors(state, tmp_path / "vae.safetensors"))
    empty = {name: torch.zeros([0] * tensor.dim()) for name, tensor in tiny_state().items()}
    with pytest.raises(NotAVAEError, match="is empty"):
        read(save_safetensors(empty, tmp_path / "vae.safetensors"))

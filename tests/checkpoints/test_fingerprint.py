"""A fingerprint belongs to the weights: not to their names, their container, their storage dtype or their file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints.making import half_of, in_diffusers_names, kl_state, numbered, save_safetensors, save_torch, tiny_state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaekit.checkpoints.fingerprint import Fingerprint, fingerprint
from vaekit.checkpoints.read import read

STATE = {name: tensor.half().float() for name, tensor in kl_state().items()}
HALF = {name: tensor.half() for name, tensor in STATE.items()}


def of(path: Path) -> Fingerprint:
    return fingerprint(read(path).state)


@pytest.mark.parametrize(
    "state",
    [STATE, HALF, {n: t.double() for n, t in STATE.items()}, dict(reversed(STATE.items()))],
    ids=["float32", "float16", "float64", "another order"],
)
@pytest.mark.parametrize("layout", ["ldm", "baked", "diffusers", "old diffusers"])
@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_it_is_the_same_in_every_layout_container_and_exact_dtype(
    state: dict[str, Tensor], layout: str, container: str, tmp_path: Path
) -> None:
    given_names = {
        "ldm": state,
        "baked": {f"first_stage_model.{name}": tensor for name, tensor in state.items()} | {"x": torch.ones(1)},
        "diffusers": in_diffusers_names(state),
        "old diffusers": in_diffusers_names(state, old=True, dims=3),
    }[layout]
    path = tmp_path / f"{layout}.{container}"
    if container == "safetensors":
        save_safetensors(given_names, path)
    else:
        save_torch(given_names, path, legacy=container == "legacy")
    assert of(path) == fingerprint(STATE)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(STATE)), data=st.data())
def test_it_differs_when_one_weight_does_and_only_in_that_half(name: str, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, STATE[name].numel() - 1))
    changed = STATE[name].clone()
    changed.view(-1)[index] += 1
    before, after = fingerprint(STATE), fingerprint(STATE | {name: changed})
    of_encoder = name.startswith(("encoder.", "quant_conv."))
    assert before.vae != after.vae
    assert (before.encoder != after.encoder) == of_encoder
    assert (before.decoder != after.decoder) == (not of_encoder)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_each_half_has_its_own_and_a_missing_half_none(half: str) -> None:
    whole, alone = fingerprint(STATE), fingerprint(half_of(STATE, half))
    other = "decoder" if half == "encoder" else "encoder"
    assert getattr(alone, half) == getattr(whole, half)
    assert getattr(alone, other) is None
    assert alone.vae != whole.vae


def test_two_files_of_a_tiny_network_are_the_one_they_were_split_from(tmp_path: Path) -> None:
    state = tiny_state()
    encoder = save_torch(numbered(state, "encoder"), tmp_path / "a.pth")
    decoder = save_torch(numbered(state, "decoder"), tmp_path / "b.pth")
    assert fingerprint(read(encoder, decoder=decoder).state) == fingerprint(state)


def test_values_that_move_from_one_tensor_to_another_are_seen() -> None:
    swapped = STATE | {
        "encoder.mid.attn_1.q.weight": STATE["encoder.mid.attn_1.k.weight"],
        "encoder.mid.attn_1.k.weight": STATE["encoder.mid.attn_1.q.weight"],
    }
    assert fingerprint(swapped).encoder != fingerprint(STATE).encoder


def test_it_reads_as_a_sha_256() -> None:
    found = fingerprint(STATE)
    assert str(found) == found.vae
    assert all(len(part or "") == 64 and int(part or "", 16) for part in (found.vae, found.encoder, found.decoder))

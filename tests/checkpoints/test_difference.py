"""What differs between two files, tensor by tensor, in numbers that numpy agrees with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.making import kl_state, save_safetensors, save_shards, save_torch
from checkpoints.whole import PREFIX, checkpoint, in_diffusers_names, surroundings
from conftest import SMALL_KL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaekit.checkpoints.bake import bake
from vaekit.checkpoints.difference import Difference, TensorDifference, compare, diff, diff_files
from vaekit.errors import FileError, NotAVAEError

STATE = kl_state(0, SMALL_KL)
NAME = "decoder.conv_out.weight"


def one(difference: Difference, name: str = NAME) -> TensorDifference:
    (found,) = (tensor for tensor in difference.tensors if tensor.name == name)
    return found


def changed(name: str = NAME, by: float = 0.5) -> dict[str, Tensor]:
    """STATE with one number of one tensor changed."""
    tensor = STATE[name].clone()
    tensor.view(-1)[0] += by
    return STATE | {name: tensor}


@settings(max_examples=50, deadline=None)
@given(
    a=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9),
    b=st.lists(st.floats(-1e4, 1e4, width=32), min_size=9, max_size=9),
    chunk=st.integers(1, 10),
)
def test_norms_are_those_of_numpy_however_the_tensor_is_cut(a: list[float], b: list[float], chunk: int) -> None:
    b = b[: len(a)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.checkpoints.difference.AT_ONCE", chunk)
        found = one(compare({NAME: torch.tensor(a)}, {NAME: torch.tensor(b)}))
    x, y = np.float64(np.float32(a)), np.float64(np.float32(b))
    assert found.status == ("same" if a == b else "differs")
    assert found.l2 == pytest.approx(np.linalg.norm(x - y), rel=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert found.largest == np.abs(x - y).max()
    if np.linalg.norm(x):
        assert found.relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)


def test_one_changed_number_is_found_in_its_tensor_and_its_half() -> None:
    found = compare(STATE, changed())
    assert [tensor.name for tensor in found.tensors if tensor.status != "same"] == [NAME]
    assert one(found).l2 == pytest.approx(0.5)
    assert not found.identical
    assert found.half("encoder").identical
    assert str(found.half("encoder")) == "the same"
    assert str(found.half("decoder")).startswith(f"of {len(found.half('decoder').tensors)} tensors 1 differ; ")


def test_the_distance_of_a_half_is_that_of_all_its_numbers() -> None:
    other = {name: tensor + 0.01 if name.startswith("decoder.up") else tensor for name, tensor in STATE.items()}
    names = [name for name in STATE if name.startswith(("decoder.", "post_quant_conv."))]
    a, b = (np.concatenate([state[name].double().numpy().ravel() for name in names]) for state in (STATE, other))
    found = compare(STATE, other)
    assert found.half("decoder").distance == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-9)
    assert found.half("encoder").distance == 0


def test_unrelated_trainings_are_about_as_far_apart_as_can_be() -> None:
    kernels = {n: torch.randn(64, 64, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(STATE)}
    others = {n: torch.randn(64, 64, generator=torch.Generator().manual_seed(-i - 1)) for i, n in enumerate(STATE)}
    assert compare(kernels, others).distance == pytest.approx(math.sqrt(2), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_copy_in_fewer_digits_is_told_from_a_real_difference(dtype: torch.dtype) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    for a, b in ((STATE, narrow), (narrow, STATE)):
        found = compare(a, b)
        assert {tensor.status for tensor in found.tensors} <= {"same", "rounded"}
        assert one(found).status == "rounded"
        assert 0 < (found.distance or 0) < 0.1
    assert one(compare(changed(), narrow)).status == "differs"
    exact = {name: tensor.to(dtype).float() for name, tensor in STATE.items()}
    assert compare(narrow, exact).identical
    assert one(compare(narrow, exact)).dtypes[1] == "F32"


def test_missing_tensors_and_other_shapes_are_told() -> None:
    a, b = {"x": torch.ones(2), "y": torch.ones(2, 2)}, {"z": torch.ones(1).half(), "y": torch.ones(4)}
    found = compare(a, b)
    assert [(t.name, t.status, t.dtypes) for t in found.tensors] == [
        ("x", "only in A", ("F32", None)),
        ("y", "another shape", ("F32", "F32")),
        ("z", "only in B", (None, "F16")),
    ]
    assert found.distance is None
    assert "another shape" in str(found) or "of another shape" in str(found)


def test_nan_is_the_same_only_as_the_very_same_bits_and_json_holds_it() -> None:
    nan = STATE | {NAME: torch.full_like(STATE[NAME], torch.nan)}
    assert compare(nan, nan).identical
    found = compare(STATE, nan)
    assert one(found).status == "differs"
    assert math.isnan(one(found).l2 or 0)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["distance"] is None


def test_numbers_against_nothing_are_infinitely_far_and_nothing_against_nothing_is_near() -> None:
    zero, ones = {NAME: torch.zeros(3)}, {NAME: torch.ones(3)}
    assert compare(zero, ones).distance == math.inf
    assert compare(zero, zero).distance == 0
    assert compare({}, {}).distance is None
    assert json.loads(json.dumps(compare(zero, ones).to_dict(), allow_nan=False))["tensors"][0]["relative"] is None


@pytest.mark.parametrize("container", ["diffusers", "pickle", "baked", "shards"])
def test_vaes_are_compared_whatever_holds_them(container: str, tmp_path: Path) -> None:
    path = {
        "diffusers": lambda: save_safetensors(in_diffusers_names(changed(), old=True), tmp_path / "b.safetensors"),
        "pickle": lambda: save_torch({"state_dict": changed()}, tmp_path / "b.pt"),
        "baked": lambda: checkpoint(tmp_path / "b.safetensors", changed()),
        "shards": lambda: save_shards(changed(), tmp_path),
    }[container]()
    found = diff(save_safetensors(STATE, tmp_path / "a.safetensors"), path)
    assert [tensor.name for tensor in found.tensors if tensor.status != "same"] == [NAME]


def test_all_tensors_of_two_checkpoints_are_compared_by_their_names_there(tmp_path: Path) -> None:
    others = surroundings((torch.float16, torch.bfloat16, torch.float8_e5m2))
    model = checkpoint(tmp_path / "a.safetensors", others=others)
    bake(model, save_safetensors(changed(), tmp_path / "vae.safetensors"), tmp_path / "b.safetensors")
    found = diff_files(model, tmp_path / "b.safetensors")
    assert len(found.tensors) == len(others) + len(STATE)
    assert [tensor.name for tensor in found.tensors if tensor.status != "same"] == [PREFIX + NAME]


def test_files_without_a_vae_can_be_compared_whole_and_not_as_vaes(tmp_path: Path) -> None:
    lora = save_safetensors({"lora_up.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    assert diff_files(lora, lora).identical
    with pytest.raises(NotAVAEError, match="LoRA"):
        diff(lora, lora)
    with pytest.raises(FileError, match="no such file"):
        diff_files(lora, tmp_path / "missing.safetensors")

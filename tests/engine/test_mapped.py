"""Weights that another dtype runs from take no memory, and are there again when they are needed."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL_KL, random_state
from safetensors.torch import load_file, save_file

import vaekit
from vaekit.engine.mapped import _mappings, check, give_back
from vaekit.errors import FileError
from vaekit.vae import VAE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")


def resident(of: Path) -> int:
    """Bytes of a file that lie in this process's memory."""
    found, mine = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            mine = line.endswith(str(of))
        elif mine and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Activations pass 65504, the largest float16, and come back: finite in float32."""
    state = random_state(SMALL_KL)
    state["decoder.conv_in.weight"] *= 1e6
    save_file(state, tmp_path / "vae.safetensors")
    return tmp_path / "vae.safetensors"


def loaded(weights: Path, dtype: str) -> VAE:
    return vaekit.load(weights, family="sd1", dtype=dtype)


def test_what_was_given_back_is_read_again(weights: Path) -> None:
    state = load_file(weights)
    sums = {name: tensor.sum() for name, tensor in state.items()}
    assert resident(weights) > weights.stat().st_size // 2
    give_back(state.values())
    assert resident(weights) == 0
    assert all(torch.equal(tensor.sum(), sums[name]) for name, tensor in state.items())


def test_other_memory_and_what_was_written_over_is_left_alone(weights: Path) -> None:
    state, own = load_file(weights), torch.ones(1 << 20)
    name = max(state, key=lambda name: state[name].numel())
    state[name].fill_(7)
    give_back([*state.values(), own])
    assert bool((state[name] == 7).all()) and bool((own == 1).all())


@pytest.mark.parametrize(("dtype", "stays"), [("bfloat16", False), ("float32", True)])
def test_a_narrower_network_leaves_its_weights_in_the_file(weights: Path, dtype: str, stays: bool) -> None:
    vae = loaded(weights, dtype)
    vae.decode(torch.ones(1, 4, 2, 2))
    assert (resident(weights) > 0) is stays
    assert vae.fingerprint == loaded(weights, "float32").fingerprint


def test_an_overflow_is_repeated_though_the_file_is_gone(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = loaded(weights, "float32").decode(torch.ones(1, 4, 2, 2), output="tensor")
    vae = loaded(weights, "float16")
    weights.unlink()
    with caplog.at_level(logging.WARNING, logger="vaekit"):
        decoded = vae.decode(torch.ones(1, 4, 2, 2), output="tensor")
    assert "repeated in float32" in caplog.text
    assert torch.allclose(decoded, expected, atol=1e-4)


def test_a_file_that_became_shorter_is_told(weights: Path) -> None:
    vae = loaded(weights, "float32")
    check(vae.weights.values())
    os.truncate(weights, 10_000)
    with pytest.raises(FileError, match=r"vae\.safetensors: has become shorter"):
        vae.decode(torch.ones(1, 4, 2, 2))


def test_only_files_count_as_mapped(weights: Path) -> None:
    state = load_file(weights)
    assert [one.path for one in _mappings([*state.values(), torch.ones(1 << 20)])] == [str(weights)]
    assert _mappings([torch.ones(1 << 20)]) == []

"""Int8 with OpenVINO: calibrated once, kept above 40 dB, told, and refused where it would do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import random_state
from torch import Tensor

import vaekit
from vaekit import assets, folders
from vaekit.engine import int8
from vaekit.engine.fast import openvino
from vaekit.engine.half import Half
from vaekit.errors import NumericsError, OptionError
from vaekit.networks.config import KLConfig

DECODER = KLConfig(4, (), (32, 32), decoder_blocks=1)
needs_openvino = pytest.mark.skipif(not openvino.available(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "cache", lambda: tmp_path)
    return tmp_path / "int8"


def decoder(state: dict[str, Tensor] | None = None) -> Half:
    state = state or random_state(DECODER)
    return Half("decode", DECODER, state, dtype=torch.float32, device=torch.device("cpu"), engine="openvino")


def noise() -> list[Tensor]:
    return [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def asked_again() -> Sequence[Tensor]:
    raise AssertionError("calibrated a second time")


@needs_openvino
def test_real_weights_keep_40_decibels_and_run_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = assets.sample_photos()
    monkeypatch.setattr(assets, "sample_photos", lambda: photos[1:2])
    full, fast = vaekit.load("mini-tiny", engine="openvino"), vaekit.load("mini-tiny", quality="fast")
    assert "decode: int8 in" in fast.describe() and "int8" not in full.describe()
    latents = full.encode(photos[2])  # which it was not calibrated with
    plain, rounded = (vae.decode(latents, output="tensor") for vae in (full, fast))
    assert float(10 * torch.log10(4 / (plain - rounded).square().mean())) >= int8.LEAST
    assert not torch.allclose(plain, rounded, atol=1e-3)
    assert not torch.allclose(latents.tensor, fast.encode(photos[2]).tensor, atol=1e-3)


@needs_openvino
def test_calibration_is_kept_and_what_does_not_belong_there_is_not_believed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LEAST", 30.0)
    first = int8.settle(decoder(), "f" * 64, noise)
    assert first.of == 2 + len(first.ranges) and first.decibels >= int8.LEAST
    assert int8.settle(decoder(), "f" * 64, asked_again) == first
    (kept,) = cache.iterdir()
    for broken in ("{", "[]", '{"ranges": {"nowhere": [0, 1]}, "of": 3, "decibels": 50}'):
        kept.write_text(broken, "utf-8")
        assert int8.settle(decoder(), "f" * 64, noise) == first


@needs_openvino
def test_what_loses_most_stays_in_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST", 30.0)
    everything = int8.settle(decoder(), "e" * 64, noise)
    monkeypatch.setattr(int8, "LEAST", everything.decibels + 6)
    some = int8.settle(decoder(), "s" * 64, noise)
    assert 0 < len(some.ranges) < len(everything.ranges)
    assert some.decibels >= int8.LEAST
    monkeypatch.setattr(int8, "LEAST", 300.0)
    none = int8.settle(decoder(), "n" * 64, noise)
    assert not none.ranges and none.decibels < 300 and "int8 in 0 of" in str(none)


@needs_openvino
def test_a_broken_network_is_not_calibrated() -> None:
    state = random_state(DECODER)
    state["decoder.conv_out.weight"] = state["decoder.conv_out.weight"] * float("nan")
    with pytest.raises(NumericsError, match="broken"):
        int8.settle(decoder(state), "b" * 64, noise)


def test_it_is_refused_where_it_would_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="full and fast"):
        vaekit.load("mini", quality="cheap")
    with pytest.raises(OptionError, match="engine torch"):
        vaekit.load("mini", quality="fast", engine="torch")
    monkeypatch.setattr(openvino, "available", lambda: True)
    with pytest.raises(OptionError, match="strips"):
        vaekit.load("mini", quality="fast", attention_window=4)
    with pytest.raises(OptionError, match="padding"):
        vaekit.load("mini", quality="fast", padding="circular")
    monkeypatch.setattr(openvino, "available", lambda: False)
    with pytest.raises(OptionError, match=r"pip install 'vaekit\[openvino\]'"):
        vaekit.load("mini", quality="fast")


@needs_openvino
def test_a_decoder_without_its_encoder_cannot_be_calibrated(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    mini = load_file(assets.model_folder("mini-tiny") / "diffusion_pytorch_model.safetensors")
    path = tmp_path / "decoder.safetensors"
    save_file({k: v.contiguous() for k, v in mini.items() if k.startswith("decoder.")}, path)
    with pytest.raises(OptionError, match="only decodes"):
        vaekit.load(path, family="mini", quality="fast")

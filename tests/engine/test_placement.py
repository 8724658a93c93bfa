"""What every VAE runs in where nothing is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import SMALL_KL, SMALL_TINY

from vaekit.engine.fast import norms, openvino, processor, winograd
from vaekit.engine.placement import place
from vaekit.errors import OptionError
from vaekit.networks.config import TinyConfig


def test_the_environment_names_the_usual_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEKIT_DTYPE", "bfloat16")
    usual = place("cpu")
    assert usual.encode_dtype == usual.decode_dtype == torch.bfloat16 and "VAEKIT_DTYPE" in str(usual)
    assert place("cpu", decode_dtype="float16").decode_dtype == torch.float16
    monkeypatch.setenv("VAEKIT_DTYPE", "float7")
    with pytest.raises(OptionError, match="float7"):
        place("cpu")


def test_without_it_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAEKIT_DTYPE")
    assert place("cpu").why and not place("cpu").asked
    assert place("cpu", engine="reference").decode_dtype == torch.float32


def on_a_gpu_with(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool, triton: bool) -> None:
    monkeypatch.delenv("VAEKIT_DTYPE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(norms, "installed", lambda: triton)


def test_a_gpu_is_used_by_itself_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu_with(monkeypatch, bfloat16=True, triton=True)
    usual = place().suited_to(SMALL_KL)
    assert usual.device.type == "cuda" and usual.engine == "torch"
    assert usual.encode_dtype == usual.decode_dtype == torch.bfloat16
    assert str(usual).startswith("cuda, bfloat16 with CUDA graphs and norms in Triton (this GPU computes in it")
    taesd, narrow = (place().suited_to(replace(SMALL_TINY, width=width)) for width in (64, 16))
    assert (taesd.engine, taesd.encode_dtype, taesd.decode_dtype) == ("torch", torch.float32, torch.bfloat16)
    assert narrow.encode_dtype == narrow.decode_dtype == torch.float32


def test_an_older_gpu_computes_in_float16_and_misses_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu_with(monkeypatch, bfloat16=False, triton=False)
    usual = place().suited_to(SMALL_KL)
    assert usual.encode_dtype == usual.decode_dtype == torch.float16
    assert "no Triton" in str(usual)


def test_reference_is_the_plain_network_in_float32_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu_with(monkeypatch, bfloat16=True, triton=True)
    plain = place(engine="reference").suited_to(SMALL_KL)
    assert plain.engine == "reference" and plain.encode_dtype == plain.decode_dtype == torch.float32
    with pytest.raises(OptionError, match="runs on the CPU here, not on cuda"):
        place(engine="openvino")


def test_openvino_runs_tiny_networks_that_winograds_convolution_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    if not winograd.available(torch.device("cpu"), torch.float32):
        pytest.skip("llvmlite is not installed")
    wide, narrow = (TinyConfig(4, width, (1, 1, 1, 1), (1, 1, 1, 1)) for width in (64, 24))
    monkeypatch.setattr(openvino, "available", lambda: True)
    engines = {}
    for tiles in (False, True):  # of bfloat16, multiplied by the processor
        monkeypatch.setattr(processor, "multiplies_tiles", lambda tiles=tiles: tiles)
        usual = place("cpu", dtype="bfloat16")
        engines[tiles] = [usual.suited_to(config).engine for config in (wide, narrow, SMALL_KL)]
    assert engines == {False: ["torch", "openvino", "torch"], True: ["openvino", "openvino", "torch"]}

"""What every VAE runs in where nothing is asked for."""

from __future__ import annotations

import pytest
import torch

from vaekit.engine.placement import place
from vaekit.errors import OptionError


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

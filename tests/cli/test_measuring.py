"""Commands that measure VAEs do it in float32, whatever is fastest on this processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from catalog.shelves import empty_home
from PIL import Image

from vaekit.cli import main
from vaekit.engine import placement


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Of each command, on a machine whose processor computes in bfloat16."""
    empty_home(tmp_path / "home", monkeypatch)
    monkeypatch.delenv(placement.USUAL_DTYPE, raising=False)
    narrow = (torch.bfloat16, torch.bfloat16, "because this processor computes in it")
    monkeypatch.setattr(placement, "_default_dtypes", lambda *_: narrow)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    picture = str(tmp_path / "picture.png")
    return {
        "compare": ["compare", picture, "--no-charts", "--vae", "mini", "-o", str(tmp_path / "compared")],
        "study": ["latents", "study", picture, "--other", "mini-mse", "-o", str(tmp_path / "study.html")],
    }


@pytest.mark.parametrize("command", ["compare", "study"])
@pytest.mark.parametrize(("asked", "usual"), [(None, None), ("bfloat16", None), (None, "bfloat16")])
def test_it_is_float32_unless_another_is_asked_for(
    arguments: dict[str, list[str]],
    command: str,
    asked: str | None,
    usual: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if usual:
        monkeypatch.setenv(placement.USUAL_DTYPE, usual)
    assert main([*arguments[command], *(["--dtype", asked] if asked else [])]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "cpu, " in line]
    expected = asked or usual or "float32"
    assert len(told) == {"compare": 1, "study": 2}[command]
    assert all(f"cpu, {expected}" in line for line in told), told

"""Small sample photos, so that a VAE is examined in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vaekit import assets


@pytest.fixture
def small_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two of the sample photos at a quarter of their size, in place of all of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    small = []
    for photo in assets.sample_photos()[:2]:
        with Image.open(photo) as picture:
            picture.resize((128, 96), Image.Resampling.BOX).save(folder / f"{photo.stem}.png")
        small.append(folder / f"{photo.stem}.png")
    monkeypatch.setattr(assets, "sample_photos", lambda: small)
    return small

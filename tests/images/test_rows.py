"""Files written and read a few rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaekit import images
from vaekit.errors import NumericsError, OutputError, PictureError
from vaekit.images import row_reading


def levels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with noise, so that every filter of PNG is the best one somewhere."""
    random = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] + np.array([0, 40, 90])
    return ((ramp + random.integers(0, 1 + 60 * seed % 90, (height, width, 3))) % 256).astype(np.uint8)


def signal(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)) / 127.5 - 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@given(height=st.integers(1, 40), width=st.integers(1, 40), at_once=st.integers(1, 17), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_what_is_written_by_rows_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, height: int, width: int, at_once: int, seed: int
) -> None:
    values, path = levels(height, width, seed), tmp_path_factory.mktemp("rows") / f"picture{suffix}"
    padded = np.pad(values, ((0, 3), (0, 5), (0, 0)))
    with images.write_rows(path, (width, height)) as file:
        file.write(0, signal(values)[:1])  # a run that begins anew
        for first in range(0, height + 3, at_once):
            file.write(first, signal(padded)[first : first + at_once])
    with Image.open(path) as image:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), values)


def test_a_png_by_rows_is_about_as_small_as_pillows(tmp_path: Path, photos: list[Path]) -> None:
    with Image.open(photos[0]) as image:
        values = np.asarray(image.convert("RGB"))
    Image.fromarray(values).save(tmp_path / "pillow.png")
    with images.write_rows(tmp_path / "rows.png", (values.shape[1], values.shape[0])) as file:
        file.write(0, signal(values))
    assert (tmp_path / "rows.png").stat().st_size < 1.1 * (tmp_path / "pillow.png").stat().st_size


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with pytest.raises(NumericsError), images.write_rows(path, (4, 4)) as file:
        file.write(0, torch.full((4, 4, 3), torch.nan))
    with pytest.raises(OutputError, match="row by row"), images.write_rows(tmp_path / "picture.jpg", (4, 4)):
        pass
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"), images.write_rows(path, (4, 4)):
        pass
    assert path.read_bytes() == b"mine"


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_reading, "LARGE", 1)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("how", [{"tile": (16, 32)}, {"rowsperstrip": 5}, {"tile": (16, 16), "compression": "zlib"}])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 3), ("uint8", 1)])
def test_tiles_and_strips_are_read_as_the_whole_is(tmp_path: Path, how: dict, dtype: str, channels: int) -> None:
    path = tmp_path / "picture.tif"
    values = np.random.default_rng(1).integers(0, 256 if dtype == "uint8" else 65536, (45, 70, channels), dtype)
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(path, values if channels == 3 else values[..., 0], photometric=kind, **how)
    opened = images.open_rows(path)
    assert opened is not None
    with opened as picture:
        assert picture.size == (70, 45)
        out = torch.empty(48, 72, 3)
        for first in range(0, 48, 7):
            picture.read(first, out[first : first + 7])
    white = 255 if dtype == "uint8" else 65535
    wanted = torch.from_numpy(values.astype(np.float32)) / (white / 2) - 1
    padded = images.pad(wanted.expand(-1, -1, 3).permute(2, 0, 1), 8).permute(1, 2, 0)
    assert torch.allclose(out, padded, atol=1e-6)


@pytest.mark.usefixtures("small_is_large")
def test_what_needs_more_than_rows_is_left_to_read(tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    values = levels(20, 20)
    Image.fromarray(values).convert("RGBA").save(path)
    assert images.open_rows(path) is None
    Image.fromarray(values).save(path, compression="tiff_lzw")
    assert images.open_rows(path) is None
    path.write_bytes(b"II*\0garbage")
    assert images.open_rows(path) is None
    tifffile.imwrite(path, values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    assert images.open_rows(path) is None
    tifffile.imwrite(path, values, photometric="rgb")
    with pytest.raises(PictureError, match="limit"):
        images.open_rows(path, max_pixels=100)
    data = path.read_bytes()
    path.write_bytes(data[:-300])
    opened = images.open_rows(path)
    assert opened is not None
    with opened as picture, pytest.raises(PictureError, match="damaged"):
        picture.read(0, torch.empty(20, 20, 3))


def test_a_picture_too_small_to_be_worth_it_is_left_to_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "picture.tif", levels(20, 20), photometric="rgb")
    assert images.open_rows(tmp_path / "picture.tif") is None

"""Pictures to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaekit.errors import FileError, PictureError
from vaekit.train.data import Crops


def folder(path: Path, colour: tuple[int, int, int], count: int = 3) -> Path:
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (50, 60), colour).save(path / f"{i}.png")
    return path


def test_crops_come_from_each_folder_as_often_as_its_share(tmp_path: Path) -> None:
    crops = Crops([(folder(tmp_path / "a", (255, 0, 0)), 3.0), (folder(tmp_path / "b", (0, 0, 255)), 1.0)])
    batch = crops.batch(400, 8, (1.0, 1.0), np.random.default_rng(0))
    assert batch.shape == (400, 3, 8, 8)
    assert (batch[:, 0, 0, 0] > 0).float().mean().item() == pytest.approx(0.75, abs=0.06)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", (255, 0, 0), 4)
    Image.new("RGB", (50, 60), (0, 255, 0)).save(path / "0.png")
    crops = Crops([(path, 1.0)])
    batch = crops.batch(60, 8, (1.0, 1.0), np.random.default_rng(0))
    assert (batch[:, 1] < 0).all()
    assert (crops.sheet(16, 4)[:, 1] > 0).all()


@pytest.mark.parametrize(("size", "side"), [((50, 60), 8), ((50, 60), 64), ((9, 200), 32)])
def test_crops_have_the_side_asked_for_whatever_the_picture(tmp_path: Path, size: tuple[int, int], side: int) -> None:
    for i in range(2):
        Image.new("RGB", size, (i, i, i)).save(tmp_path / f"{i}.png")
    assert Crops([(tmp_path, 1.0)]).batch(2, side, (0.5, 2.0), np.random.default_rng(0)).shape == (2, 3, side, side)


def test_folders_without_pictures_and_pictures_too_small_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no pictures"):
        Crops([(tmp_path, 1.0)])
    with pytest.raises(FileError, match="no such folder"):
        Crops([(tmp_path / "none", 1.0)])
    with pytest.raises(PictureError, match=r"50×60, too small.*64"):
        Crops([(folder(tmp_path / "a", (0, 0, 0)), 1.0)], smallest=64)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(PictureError, match=r"x\.png"):
        Crops([(tmp_path / "bad", 1.0)])

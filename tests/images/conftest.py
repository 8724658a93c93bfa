"""Places for picture files, and a watch over what reading them may leave behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], Path]:
    """Put bytes into a file whose name says nothing about them."""

    def save(data: bytes) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dat"
        path.write_bytes(data)
        return path

    return save


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that hypothesis writes again and again."""
    return tmp_path_factory.mktemp("fuzz") / "picture"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    """No warning reaches the user, and Pillow's globals stay as they were."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)

"""A small model with random weights, as a folder and as a file, and a painter of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from generate.models import write_file, write_folder

from vaekit.generate.painter import Painter


@pytest.fixture(scope="session", autouse=True)
def no_places_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches and folders of models of nobody."""
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
        os.environ[variable] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "small-sd")


@pytest.fixture(scope="session")
def single(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(folder, tmp_path_factory.mktemp("single") / "small.safetensors")


@pytest.fixture(scope="session")
def painter(folder: Path) -> Painter:
    return Painter.open(str(folder), dtype="float32", device="cpu")

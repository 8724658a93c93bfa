"""The arguments of a command become the files they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vaekit import images
from vaekit.errors import PictureError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("10.png", "2.PNG", "1.jpg", "notes.txt", ".hidden.png", "deep/er/3.webp", "odd[1].png", "x.png/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*patterns: str, **options: Any) -> list[str]:
    return [path.as_posix() for path in images.find(patterns, **options)]


def test_a_folder_means_the_pictures_directly_inside_in_the_order_people_count(folder: Path) -> None:
    assert names(".") == ["1.jpg", "2.PNG", "10.png", "odd[1].png"]


def test_a_glob_is_expanded_and_two_stars_go_into_folders(folder: Path) -> None:
    assert names("1*") == ["1.jpg", "10.png"]
    assert names("**/*.webp") == ["deep/er/3.webp"]
    assert "x.png/a.png" in names("**") and "x.png" not in names("**")


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert names("notes.txt", ".hidden.png", "odd[1].png") == ["notes.txt", ".hidden.png", "odd[1].png"]


def test_order_is_kept_and_duplicates_are_removed(folder: Path) -> None:
    assert names("10.png", "./1.jpg", ".", "deep/../2.PNG") == ["10.png", "1.jpg", "2.PNG", "odd[1].png"]


def test_other_suffixes_can_be_asked_for(folder: Path) -> None:
    assert names(".", suffixes={".txt"}) == ["notes.txt"]


@pytest.mark.parametrize("pattern", ["missing.png", "*.gif", "deep", "", "a\0b", "a\0*", "y" * 5000, "y" * 5000 + "*"])
def test_a_pattern_that_means_nothing_is_told_even_among_others(pattern: str, folder: Path) -> None:
    with pytest.raises(PictureError) as caught:
        images.find(["1.jpg", pattern])
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_no_pattern_at_all_is_told() -> None:
    with pytest.raises(PictureError, match="name files"):
        images.find([])

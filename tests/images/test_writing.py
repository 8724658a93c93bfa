"""Pictures are written as they are, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import alpha_of, levels, noise, smooth
from PIL import Image, JpegImagePlugin

from vaekit import images
from vaekit.errors import NumericsError, OutputError, PictureError


def test_to_pil_rounds_to_the_nearest_level_and_clamps() -> None:
    pixels = torch.tensor([-7.0, -1.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1, 1.0, float("inf")])
    picture = images.to_pil(pixels.view(1, 1, 1, 6).expand(1, 3, 1, 6))[0]
    assert np.asarray(picture)[0, :, 1].tolist() == [0, 0, 100, 101, 255, 255]


def test_to_pil_gives_rgba_where_there_is_alpha() -> None:
    stored = noise(4, 6, 4)
    read = images.read(np.stack([stored, stored[::-1]]))
    back = images.to_pil(read.pixels, read.alpha)
    assert [np.array_equal(np.asarray(p), s) for p, s in zip(back, (stored, stored[::-1]), strict=True)] == [True, True]


def test_to_pil_never_shows_nan() -> None:
    with pytest.raises(NumericsError, match="NaN"):
        images.to_pil(torch.full((1, 3, 2, 2), float("nan")))


@pytest.mark.parametrize(
    ("pixels", "alpha"),
    [
        (torch.zeros(3, 2, 2), None),
        (torch.zeros(1, 4, 2, 2), None),
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), None),
        (torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 3, dtype=torch.uint8)),
        (torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)),
    ],
)
def test_to_pil_refuses_what_does_not_fit(pixels: torch.Tensor, alpha: torch.Tensor | None) -> None:
    with pytest.raises(PictureError):
        images.to_pil(pixels, alpha)


@pytest.mark.parametrize(
    ("suffix", "format", "error"),
    [
        (".png", "PNG", 0),
        (".TIFF", "TIFF", 0),
        (".bmp", "BMP", 0),
        (".jpg", "JPEG", 8),
        (".webp", "WEBP", 16),
        (".avif", "AVIF", 16),
    ],
)
def test_a_picture_is_written_in_the_format_of_its_suffix(suffix: str, format: str, error: int, tmp_path: Path) -> None:
    path = tmp_path / f"new folder/picture{suffix}"
    images.write(Image.fromarray(smooth()), path)
    with Image.open(path) as back:
        assert back.format == format
        assert np.abs(np.asarray(back.convert("RGB"), int) - smooth()).max() <= error
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_jpeg_is_written_with_full_colour_resolution(tmp_path: Path) -> None:
    images.write(Image.fromarray(smooth()), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as back:
        assert isinstance(back, JpegImagePlugin.JpegImageFile) and [part[1:3] for part in back.layer] == [(1, 1)] * 3
        assert max(back.quantization[0]) <= 12  # quality 95


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".tif"])
def test_transparency_is_written_where_the_format_has_it(suffix: str, tmp_path: Path) -> None:
    rgba = Image.fromarray(np.dstack([smooth(), np.full((16, 24), 77, np.uint8)]))
    images.write(rgba, tmp_path / f"a{suffix}")
    assert abs(int(alpha_of(images.read(tmp_path / f"a{suffix}")).mean()) - 77) <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".bmp"])
def test_transparency_into_a_format_without_it_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(OutputError, match=r"transparency.*\.png"):
        images.write(Image.new("RGBA", (2, 2)), path)
    with pytest.raises(OutputError, match="transparency"):
        images.check_format(path, alpha=True)
    images.check_format(path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.safetensors"])
def test_an_unknown_suffix_is_refused_with_the_usable_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png.*\.avif"):
        images.write(Image.new("RGB", (2, 2)), tmp_path / name)
    with pytest.raises(OutputError, match=r"\.png"):
        images.check_format(tmp_path / name)


def test_an_existing_file_is_overwritten_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write(Image.new("RGB", (2, 2), "red"), path)
    with pytest.raises(OutputError, match="--force"):
        images.write(Image.new("RGB", (2, 2), "blue"), path)
    assert levels(images.read(path))[0, 0].tolist() == [255, 0, 0]
    images.write(Image.new("RGB", (2, 2), "blue"), path, force=True)
    assert levels(images.read(path))[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("size", "suffix"), [((70_000, 1), ".jpg"), ((17_000, 1), ".webp")])
def test_a_picture_too_large_for_its_format_leaves_nothing(size: tuple[int, int], suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        images.write(Image.new("RGB", size), tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []

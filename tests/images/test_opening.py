"""Files that are hostile, damaged or too large give one clear line."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import SMALL, encoded, noise, png, refusal, smooth
from PIL import Image, ImageFile

from vaekit import images
from vaekit.errors import OptionError, PictureError


def test_files_that_cannot_be_pictures_give_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello, I am no picture at all " * 10)
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "folder" in refusal(tmp_path)
    assert "empty" in refusal(tmp_path / "empty.png")
    assert "not a picture" in refusal(tmp_path / "text.png")
    assert "not a picture" in refusal(tmp_path / "script.eps")
    assert "name" in refusal("photo\0.png")
    assert "no such file" in refusal("")
    assert "cannot be opened" in refusal("x" * 5000)
    assert "\\n" in refusal("two\nlines.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert "only plain files" in refusal(path)


def test_a_pil_picture_without_pixels_is_refused() -> None:
    assert "no pixels (0×5)" in refusal(Image.new("RGB", (0, 5)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(saved: Any) -> None:
    path = saved(encoded(Image.fromarray(smooth()), "PNG"))
    path.chmod(0)
    assert "ermission" in refusal(path)


@pytest.mark.parametrize("kind", SMALL)
def test_a_file_cut_short_is_refused_or_whole_but_never_half_grey(kind: str, scratch: Path) -> None:
    whole = SMALL[kind]
    scratch.write_bytes(whole)
    expected = images.read(scratch).pixels
    for length in {*range(1, len(whole), max(1, len(whole) // 25)), *range(len(whole) - 12, len(whole))}:
        scratch.write_bytes(whole[:length])
        try:
            pixels = images.read(scratch).pixels
        except PictureError:
            continue
        assert torch.equal(pixels, expected), f"{kind} cut to {length} of {len(whole)} bytes gave another picture"
    scratch.write_bytes(whole[: len(whole) // 2])
    refusal(scratch)


def test_truncated_files_are_refused_even_where_other_code_has_allowed_them(
    saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    path = saved(whole[: len(whole) // 2])
    Image.open(path).load()  # a half grey picture, without a word
    refusal(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    monkeypatch.undo()


def read_or_refuse(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        read = images.read(path, max_pixels=1_000_000)
    except PictureError as error:
        assert "\n" not in str(error)
        return
    assert bool(torch.isfinite(read.pixels).all())
    assert read.pixels.shape[1] == 3


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_give_a_picture_or_a_picture_error(data: bytes, scratch: Path) -> None:
    read_or_refuse(scratch, data)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(SMALL)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    early=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3),
    kept=st.floats(0.02, 1) | st.just(1.0),
)
def test_mutated_and_truncated_pictures_give_a_picture_or_a_picture_error(
    kind: str, edits: list[tuple[float, int]], early: list[tuple[int, int]], kept: float, scratch: Path
) -> None:
    data = bytearray(SMALL[kind])
    for place, value in edits:
        data[int(place * len(data))] = value
    for position, value in early:
        data[position % len(data)] = value
    read_or_refuse(scratch, bytes(data[: max(1, int(kept * len(data)))]))


def bomb(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, b"")


def test_a_decompression_bomb_is_refused_by_its_header(saved: Any) -> None:
    told = refusal(saved(bomb(40_000, 30_000)))
    assert "40000×30000" in told and f"{images.DEFAULT_MAX_PIXELS:,}" in told
    assert "max_pixels=" in told and "--max-pixels" in told


def test_the_limit_is_the_last_size_that_passes() -> None:
    for source in (Image.fromarray(noise(10, 10)), Image.open(io.BytesIO(SMALL["png"])).crop((0, 0, 10, 10))):
        assert images.read(source, max_pixels=100).size == (10, 10)
        assert "10×10" in refusal(source, max_pixels=99)


def test_max_pixels_alone_decides_whatever_pillow_thinks(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(SMALL["tiff"])
    for pillow in (1, 100, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
        assert images.read(path).size == (24, 16)
        assert "24×16" in refusal(path, max_pixels=383)
        assert images.read(path, max_pixels=384).size == (24, 16)
        assert pillow == Image.MAX_IMAGE_PIXELS
    monkeypatch.undo()


@pytest.mark.parametrize("kind", ["webp lossless", "webp", "gif", "avif", "jpeg 2000", "jpeg"])
def test_the_limit_holds_in_every_format(kind: str, saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(SMALL[kind])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    images.read(path)
    assert "max_pixels=" in refusal(path, max_pixels=50)
    monkeypatch.undo()


def test_a_small_picture_with_a_tile_that_claims_gigabytes_is_refused(saved: Any) -> None:
    tags = [
        (256, 2),
        (257, 2),
        (258, 8),
        (259, 5),
        (262, 1),
        (277, 1),
        (322, 60_000),
        (323, 60_000),
        (324, 8),
        (325, 4),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    refusal(saved(b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(tags)) + entries + bytes(4)))


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_pixel_is_an_option_error(limit: int) -> None:
    with pytest.raises(OptionError, match="max_pixels"):
        images.read(noise(2, 2), max_pixels=limit)


def test_threads_with_different_limits_do_not_disturb_each_other(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(SMALL["tiff"])
    start = threading.Barrier(8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)

    def work(number: int) -> bool:
        start.wait()
        outcomes = []
        for _ in range(10):
            try:
                images.read(path, max_pixels=384 if number % 2 else 383)
                outcomes.append(True)
            except PictureError:
                outcomes.append(False)
        return all(outcomes) if number % 2 else not any(outcomes)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads get in each other's way as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert Image.MAX_IMAGE_PIXELS == 1
    monkeypatch.undo()

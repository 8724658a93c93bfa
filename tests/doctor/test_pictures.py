"""Faults of one picture by itself: each is found where it was put, and clean pictures have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doctor.making import Pixels, scene, with_blotch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from vaekit.doctor.findings import Finding
from vaekit.doctor.paleness import measure_tones
from vaekit.doctor.pictures import check_picture
from vaekit.quality.places import Box
from vaekit.train.faults import pale


def findings(picture: Pixels) -> list[Finding]:
    return check_picture(picture, measure_tones(picture))


def seams(picture: Pixels) -> list[Finding]:
    """Of scenes that are paler than scenes are, to leave room for tints above and below."""
    return [finding for finding in findings(picture) if finding.fault != "pale"]


def faults(picture: Pixels) -> set[str]:
    return {finding.fault for finding in findings(picture)}


def covers(box: Box | None, x: int, y: int) -> bool:
    return box is not None and box[0] <= x < box[2] and box[1] <= y < box[3]


@pytest.mark.parametrize("seed", range(6))
def test_clean_scenes_have_no_fault(seed: int) -> None:
    assert findings(scene(320, 256, seed)) == []


# Purple blotches


@pytest.mark.parametrize("side", [12, 24, 40, 60])
@pytest.mark.parametrize("colour", [(0.68, 0.13, 0.88), (0.85, 0.1, 0.8), (0.5, 0.1, 0.85)])
def test_a_soft_purple_patch_is_found_in_its_place(side: int, colour: tuple[float, float, float]) -> None:
    (finding,) = findings(with_blotch(scene(), 120, 90, side=side, colour=colour))
    assert (finding.fault, finding.sure) == ("purple-blotches", "likely")
    assert covers(finding.box, 120, 90)
    assert finding.box is not None
    assert abs(finding.box[2] - finding.box[0] - side) <= 12
    assert f"at {finding.box[0]},{finding.box[1]}" in finding.where


def test_several_blotches_are_told_one_by_one() -> None:
    places = [(40, 40), (150, 60), (220, 150)]
    picture = scene()
    for x, y in places:
        picture = with_blotch(picture, x, y, side=24)
    found = findings(picture)
    assert len(found) == 3
    assert all(any(covers(finding.box, x, y) for finding in found) for x, y in places)


def test_a_purple_thing_with_a_sharp_edge_is_no_blotch() -> None:
    assert findings(with_blotch(scene(), 120, 90, side=40, fade=1)) == []


def test_a_purple_thing_with_texture_is_no_blotch() -> None:
    """A flower: as soft at its edge as a blotch, with petals in it."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.uniform(0.3, 1.2, (48, 64, 1)), np.ones((4, 4, 1)))
    assert faults(with_blotch(scene(), 120, 90, side=50, colour=texture * (0.68, 0.13, 0.88))) == set()


def test_a_purple_sky_is_no_blotch() -> None:
    picture = scene()
    height = np.linspace(1, 0, picture.shape[0], dtype=np.float32)[:, None, None] * 0.8
    assert faults(picture * (1 - height) + np.array([0.6, 0.3, 0.8], np.float32) * height) == set()


def test_in_a_purple_picture_a_blotch_is_only_possible() -> None:
    picture = with_blotch(scene(), 60, 90, side=32)
    picture[:60, 150:] = (0.6, 0.2, 0.7)
    (finding,) = findings(picture)
    assert finding.sure == "possible"
    assert covers(finding.box, 60, 90)


# Washed out


def test_washed_out_colours_are_told() -> None:
    x = torch.from_numpy(scene()).permute(2, 0, 1)[None] * 2 - 1
    (finding,) = findings((pale(x)[0].permute(1, 2, 0).contiguous().numpy() + 1) / 2)
    assert (finding.fault, finding.sure, finding.box) == ("pale", "likely", None)


def test_grey_pictures_and_plain_ones_tell_nothing_about_colour() -> None:
    grey = np.repeat(scene().mean(axis=2, keepdims=True), 3, axis=2) * np.float32(0.4) + np.float32(0.3)
    assert findings(grey) == []
    assert findings(np.full((96, 96, 3), (0.7, 0.6, 0.6), np.float32)) == []


# Black


@pytest.mark.parametrize("level", [0, 2])
def test_a_black_picture_has_that_one_fault(level: int) -> None:
    (finding,) = findings(np.full((100, 120, 3), level / 255, np.float32))
    assert (finding.fault, finding.sure, finding.where) == ("black", "certain", "the whole picture")
    assert "half precision" in finding.advice


@pytest.mark.parametrize("box", [(0, 0, 128, 128), (64, 64, 192, 160), (160, 0, 256, 192), (0, 96, 256, 192)])
def test_a_black_tile_is_found_in_its_place(box: Box) -> None:
    picture = scene() + np.float32(0.1)
    picture[box[1] : box[3], box[0] : box[2]] = 0
    (finding,) = [finding for finding in findings(picture) if finding.fault == "black"]
    assert (finding.box, finding.sure) == (box, "likely")


def test_a_black_tile_is_found_where_the_scan_has_black_lines_at_its_edges() -> None:
    picture = scene() + np.float32(0.1)
    picture[:128, :128] = 0
    picture[:2] = picture[:, :1] = picture[:, -2:] = 0
    (finding,) = [finding for finding in findings(picture) if finding.fault == "black"]
    assert finding.box == (0, 0, 128, 128)


def test_black_bars_frames_and_things_are_no_tiles() -> None:
    bright = scene() + np.float32(0.1)
    bars = bright.copy()
    bars[:32] = bars[-32:] = 0
    frame = bars.copy()
    frame[:, :32] = frame[:, -32:] = 0
    off_the_grid = bright.copy()
    off_the_grid[61:150, 30:140] = 0
    round_thing = Image.fromarray((bright.clip(0, 1) * 255).astype(np.uint8))
    ImageDraw.Draw(round_thing).ellipse((64, 32, 192, 160), fill=(0, 0, 0))
    night = bright.copy()
    night[:128, :128] *= np.linspace(0, 1, 128, dtype=np.float32)[:, None, None] ** 4
    for picture in (bars, frame, off_the_grid, np.asarray(round_thing, np.float32) / 255, night):
        assert "black" not in faults(picture)


# Seams


def stepped(picture: Pixels, at: int, tint: tuple[float, float, float]) -> Pixels:
    result = picture.copy()
    result[:, at:] += np.array(tint, np.float32) / 255
    return np.rint(result.clip(0, 1) * 255).astype(np.float32) / 255


@pytest.mark.parametrize("tint", [(6, 6, 6), (6, 0, -6), (-3, 4, 0)])
def test_a_tile_with_a_tint_of_its_own_is_found_at_its_edge(tint: tuple[float, float, float]) -> None:
    picture = stepped(scene(512, 384) * np.float32(0.8) + np.float32(0.1), 256, tint)
    for turned, where, box in (
        (picture, "x = 256", (255, 0, 257, 384)),
        (picture.transpose(1, 0, 2).copy(), "y = 256", (0, 255, 384, 257)),
    ):
        (finding,) = seams(turned)
        assert (finding.fault, finding.where, finding.box, finding.sure) == ("seam", where, box, "possible")


def test_two_seams_are_likely_tiles() -> None:
    picture = stepped(scene(768, 384) * np.float32(0.8) + np.float32(0.1), 256, (6, 0, 0))
    found = seams(stepped(picture, 512, (-3, 5, 0)))
    assert [(finding.where, finding.sure) for finding in found] == [("x = 256", "likely"), ("x = 512", "likely")]


def test_the_torn_line_of_tiles_without_overlap_is_found() -> None:
    """A network that saw zeros beyond its tile: a few pixels on both sides are off, by another amount in each place."""
    rng = np.random.default_rng(0)
    picture = scene(512, 384) * np.float32(0.8) + np.float32(0.1)
    off = np.repeat(rng.normal(0, 0.1, (48, 1, 3)), 8, axis=0).astype(np.float32)
    fading = np.array([0.1, 0.2, 0.4, 1, -1, -0.4, -0.2, -0.1], np.float32)[None, :, None]
    picture[:, 252:260] += (off + np.sign(off) * np.float32(0.04)) * fading
    assert [finding.where for finding in seams(picture)] == ["x = 256"]


def test_edges_of_things_are_no_seams() -> None:
    plain = scene(512, 384) * np.float32(0.8) + np.float32(0.1)
    assert seams(stepped(plain, 259, (8, 0, 0))) == []  # tiles begin where cells do
    framed = plain.copy()
    framed[:, :40] = framed[:, -40:] = framed[:40] = framed[-40:] = (0.9, 0.85, 0.7)
    assert seams(framed) == []
    fence = plain.copy()
    fence[:, 128:384:16] = (0.3, 0.2, 0.1)
    assert seams(fence) == []


# Any picture


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    seed=st.integers(0, 99),
    flat=st.booleans(),
    purple=st.booleans(),
)
def test_any_picture_can_be_looked_at_and_every_box_lies_in_it(
    width: int, height: int, seed: int, flat: bool, purple: bool
) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.random((1, 1, 3) if flat else (height, width, 3), np.float32) * np.ones(
        (height, width, 1), np.float32
    )
    picture = with_blotch(picture, width // 2, height // 2, side=10) if purple else picture
    for finding in findings(picture):
        if finding.box is not None:
            left, top, right, bottom = finding.box
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height

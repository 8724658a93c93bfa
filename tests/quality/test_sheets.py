import numpy as np
import pytest
from PIL import Image

from vaekit.quality import sheets


def flat(colour, size=(40, 24)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_the_difference_is_four_times_the_distance_and_stops_at_white():
    a, b = flat((10, 200, 0)), flat((13, 100, 0))
    assert sheets.difference(a, b).getpixel((1, 1)) == (12, 255, 0)
    assert sheets.difference(b, a).getpixel((1, 1)) == (12, 255, 0)


def test_a_grid_shows_every_picture_whole_under_its_label():
    tiles = {name: flat(name) for name in ("red", "lime", "blue", "cyan", "gold")}
    grid = np.asarray(sheets.grid(tiles))
    for tile in tiles.values():
        assert (grid == np.asarray(tile)[0, 0]).all(axis=2).sum() == 40 * 24
    ink = (grid < 100).all(axis=2)
    assert ink.any() and not ink[:, -10:].any()


def test_large_pictures_are_shrunk_in_a_grid():
    grid = sheets.grid({"wide": flat("red", (3000, 30)), "other": flat("blue", (3000, 30))})
    assert grid.width == 2 * (1024 + sheets.GAP) + sheets.GAP


def test_places_are_enlarged_by_a_whole_factor_without_smoothing():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    sheet = np.asarray(sheets.enlarged({"a": noise, "b": flat("red", (80, 60))}, [(5, 7, 37, 39), (40, 20, 72, 52)]))
    top, left = sheets.GAP + sheets.LABEL, sheets.GAP
    assert np.array_equal(sheet[top : top + 256 : 8, left : left + 256 : 8], np.asarray(noise)[7:39, 5:37])
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 2 * 256**2


def test_long_labels_are_cut_to_the_room_there_is():
    grid = np.asarray(sheets.grid({"W" * 300: flat("red"), "x": flat("lime")}))
    assert not (grid[:30, 40 + sheets.GAP : 40 + 2 * sheets.GAP] < 100).all(axis=2).any()


@pytest.mark.parametrize("size, side, expected", [((30, 20), 40, (30, 20)), ((400, 100), 40, (40, 10))])
def test_shrunk_pictures_keep_their_shape(size, side, expected):
    assert sheets.shrunk(flat("red", size), side).size == expected

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaekit.quality.places import largest_squares, where_they_differ


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.randoms())
def test_squares_lie_inside_do_not_overlap_and_begin_with_the_largest(width, height, side, count, random):
    side = min(side, width, height)
    amount = np.random.default_rng(random.randrange(2**32)).random((height, width))
    squares = list(largest_squares(amount, count, side))
    sums = torch.from_numpy(amount)[None].unfold(1, side, 1).unfold(2, side, 1).sum((-1, -2))
    x, y = squares[0]
    assert amount[y : y + side, x : x + side].sum() == pytest.approx(sums.max().item())
    covered = np.zeros((height, width), int)
    for x, y in squares:
        covered[y : y + side, x : x + side] += 1
    assert covered.max() == 1
    assert covered.sum() == len(squares) * side**2
    assert 1 <= len(squares) <= count


def with_square(box, colour) -> Image.Image:
    picture = Image.new("RGB", (60, 40), (100, 100, 100))
    picture.paste(colour, box)
    return picture


def test_places_are_where_the_results_disagree_and_not_where_all_are_wrong():
    original = with_square((0, 0, 8, 8), (255, 0, 0))  # which all of them lose
    results = [with_square((40, 24, 48, 32), colour) for colour in ((110, 100, 100), (90, 100, 100), (100, 100, 100))]
    assert where_they_differ(original, results, count=1, side=8) == [(40, 24, 48, 32)]


def test_where_all_agree_places_are_where_they_are_wrong():
    original, result = with_square((16, 8, 24, 16), (0, 0, 255)), with_square((0, 0, 1, 1), (100, 100, 100))
    for results in ([result], [result, result.copy()]):
        assert where_they_differ(original, results, count=1, side=8) == [(16, 8, 24, 16)]


def test_a_picture_smaller_than_the_square_has_one_place():
    small = Image.new("RGB", (5, 9))
    assert where_they_differ(small, [small], side=64) == [(0, 0, 5, 5)]

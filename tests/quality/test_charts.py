import hashlib

import numpy as np
from skimage.color import rgb2lab

from vaekit.quality import charts


def test_the_chart_has_64_flat_squares_of_64_colours():
    pixels = np.asarray(charts.colour_chart())
    squares = pixels.reshape(8, 64, 8, 64, 3).swapaxes(1, 2).reshape(64, -1, 3)
    assert (squares == squares[:, :1]).all()
    assert len({tuple(square[0]) for square in squares}) == 64


def test_the_chart_holds_the_greys_and_the_purest_colours():
    colours = {tuple(map(int, colour)) for colour in np.asarray(charts.colour_chart())[::64, ::64].reshape(-1, 3)}
    assert {(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)} < colours
    assert sum(r == g == b for r, g, b in colours) == 8


def test_the_colours_of_the_chart_average_to_grey():
    _, a, b = rgb2lab(np.asarray(charts.colour_chart())).mean(axis=(0, 1))
    assert abs(a) < 0.01 and abs(b) < 0.01


def test_the_page_of_text_is_four_bands_full_of_thin_strokes():
    pixels = np.asarray(charts.text_page()).astype(int)
    assert pixels.shape == (512, 512, 3)
    for number, band in enumerate(pixels.reshape(4, 128, 512, 3)):
        paper = band[0, 0]
        ink = np.abs(band - paper).sum(axis=2) > 100
        assert 0.08 < ink.mean() < 0.3, number
        runs = np.diff(np.flatnonzero(np.diff(ink.ravel().astype(int))))
        assert np.median(runs) <= 5  # pixels: strokes and the gaps between them


def test_charts_are_the_same_every_time():
    for draw in (charts.colour_chart, charts.text_page):
        assert draw().tobytes() == draw().tobytes()
        assert draw().mode == "RGB"


def test_the_colours_stay_what_they_are_so_that_numbers_can_be_compared_over_the_years():
    pixels = charts.colour_chart().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == "452c491cc1a4d70675367bfbec12f5efa63d2b091a2df52bac4fa1f831e52ba3"

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from vaekit.errors import PictureError
from vaekit.families import family
from vaekit.latents import Latents
from vaekit.quality.measures import MEASURES, Measure, bits_per_pixel, in_words, mean, measure_all

few = settings(max_examples=15, deadline=None)
pictures = arrays(np.uint8, st.tuples(st.integers(2, 14), st.integers(2, 14), st.just(3)))


def lab(rgb) -> tuple[float, float, float]:
    """sRGB in 0..255 -> L*a*b* with white D65, from IEC 61966-2-1 and CIE 15."""
    r, g, b = (v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb)
    x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047
    y = 0.2126729 * r + 0.7151522 * g + 0.0721750 * b
    z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def halves(left, right) -> np.ndarray:
    """A picture of two colours."""
    picture = np.empty((12, 16, 3), np.uint8)
    picture[:, :8], picture[:, 8:] = left, right
    return picture


def photo(side: int = 96) -> np.ndarray:
    """Soft shapes in colour, with room to black and white."""
    small = np.random.default_rng(3).integers(60, 196, (7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


@few
@given(pictures)
def test_a_picture_beside_itself_has_lost_nothing(picture):
    found = measure_all(picture, picture.copy())
    assert (found.psnr, found.ciede2000) == (math.inf, 0)
    assert (found.brightness, found.green_magenta, found.blue_yellow) == (0, 0, 0)
    for gain in (found.contrast, found.saturation, found.edges):
        assert gain is None or gain == pytest.approx(1)


@few
@given(pictures, st.randoms())
def test_shifts_change_their_sign_when_the_two_are_exchanged(picture, random):
    other = np.random.default_rng(random.randrange(2**32)).integers(0, 256, picture.shape, dtype=np.uint8)
    there, back = measure_all(picture, other), measure_all(other, picture)
    for name in ("brightness", "green_magenta", "blue_yellow"):
        assert getattr(there, name) == pytest.approx(-getattr(back, name), abs=1e-9)


@pytest.mark.parametrize("result", [(140, 120, 100), (90, 120, 100), (100, 140, 120), (130, 90, 135)])
def test_shifts_are_the_result_minus_the_reference_in_lab(result):
    reference = (110, 118, 104)
    found = measure_all(halves(reference, reference), halves(result, result))
    expected = np.subtract(lab(result), lab(reference))
    assert (found.brightness, found.green_magenta, found.blue_yellow) == pytest.approx(tuple(expected), abs=0.02)


def test_the_signs_are_as_told():
    grey = halves((128, 128, 128), (128, 128, 128))

    def of(*rgb):
        return measure_all(grey, halves(rgb, rgb))

    assert of(140, 140, 140).brightness > 1
    assert of(110, 140, 110).green_magenta < -1 and "− is greener" in told("green_magenta")
    assert of(140, 115, 140).green_magenta > 1
    assert of(120, 120, 150).blue_yellow < -1 and "− is bluer" in told("blue_yellow")
    assert of(135, 135, 100).blue_yellow > 1


def told(key: str) -> str:
    return next(measure.told for measure in MEASURES if measure.key == key)


def test_contrast_is_the_gain_between_two_greys():
    found = measure_all(halves((40, 40, 40), (210, 210, 210)), halves((70, 70, 70), (180, 180, 180)))
    light = [lab((v, v, v))[0] for v in (40, 210, 70, 180)]
    assert found.contrast == pytest.approx((light[3] - light[2]) / (light[1] - light[0]), abs=1e-3)
    assert found.saturation is None


def test_saturation_is_the_gain_of_colour_about_neutral():
    reference, dull = halves((150, 100, 90), (90, 120, 160)), halves((128, 112, 108), (108, 118, 132))
    before = np.array([lab((150, 100, 90)), lab((90, 120, 160))])[:, 1:]
    after = np.array([lab((128, 112, 108)), lab((108, 118, 132))])[:, 1:]
    expected = (before * after).sum() / (before**2).sum()
    assert measure_all(reference, dull).saturation == pytest.approx(expected, abs=2e-3)
    grey = halves((115, 115, 115), (125, 125, 125))
    assert measure_all(reference, grey).saturation == pytest.approx(0, abs=1e-3)


def test_noise_raises_neither_contrast_nor_saturation():
    original = photo()
    noise = np.random.default_rng(0).normal(0, 12, original.shape)
    noisy = np.clip(np.round(original + noise), 0, 255).astype(np.uint8)
    found = measure_all(original, noisy)
    assert found.contrast == pytest.approx(1, abs=0.02)
    assert found.saturation == pytest.approx(1, abs=0.03)


def test_edges_are_fewer_after_blurring_and_more_after_sharpening():
    page = Image.fromarray(photo().repeat(1, axis=0)).convert("RGB")
    page.paste((250, 250, 250), (20, 20, 60, 50))
    soft = measure_all(page, page.filter(ImageFilter.GaussianBlur(2))).edges
    softer = measure_all(page, page.filter(ImageFilter.GaussianBlur(4))).edges
    sharp = measure_all(page, page.filter(ImageFilter.UnsharpMask(2, 100, 0))).edges
    assert softer < soft < 0.8 < 1.1 < sharp


def test_a_flat_reference_has_nothing_to_keep_and_a_small_one_no_structure():
    flat = halves((128, 128, 128), (128, 128, 128))
    found = measure_all(flat[:10], halves((10, 200, 90), (255, 0, 0))[:10])
    assert (found.contrast, found.saturation, found.edges) == (None, None, None)
    assert (found.ssim, found.ms_ssim) == (None, None)
    assert measure_all(flat, flat).ssim == 1


def test_pictures_of_different_sizes_are_refused():
    with pytest.raises(PictureError, match="different sizes"):
        measure_all(photo(40), photo(48))


def test_to_dict_is_valid_json_also_for_equal_pictures():
    told = json.loads(json.dumps(measure_all(photo(), photo()).to_dict(), allow_nan=False))
    assert told["identical"] is True and told["psnr"] is None
    assert {measure.key for measure in MEASURES} >= told.keys() - {"identical"}


@pytest.mark.parametrize(
    "name, size, expected", [("sd1", (64, 64), 1.0), ("sd3", (64, 64), 4.0), ("sd1", (60, 50), 4 * 56 * 16 / 3000)]
)
def test_bits_per_pixel_count_16_bits_a_number(name, size, expected):
    space = family(name)
    cells = [-(-side // space.downscale) for side in size]
    latents = Latents(torch.zeros(2, space.latent_channels, cells[1], cells[0]), space, size)
    assert bits_per_pixel(latents) == pytest.approx(expected)


def test_means_leave_out_what_a_picture_has_not():
    rows = [{"psnr": 20.0, "ssim": None}, {"psnr": 30.0, "ssim": 0.5}, {"psnr": math.inf, "ssim": 0.7}]
    found = mean(rows)
    assert (found["psnr"], found["ssim"], found["lpips"]) == (25.0, pytest.approx(0.6), None)
    assert mean([{"psnr": math.inf}, {"psnr": math.inf}])["psnr"] == math.inf


def test_values_read_as_people_write_them():
    by_key = {measure.key: measure for measure in MEASURES}
    assert by_key["psnr"].text(math.inf) == "∞"
    assert by_key["psnr"].text(None) == "–"
    assert by_key["brightness"].text(1.234) == "+1.23"
    assert by_key["brightness"].text(-1.234) == "−1.23"
    assert by_key["brightness"].text(-0.001) == "0.00"
    assert by_key["contrast"].text(0.9) == "0.90"


@pytest.mark.parametrize(
    "best, ranked",
    [("high", [math.inf, 2, 1, None]), ("low", [0, 1, None]), ("one", [1.02, 0.9, 1.3]), ("zero", [0.2, -0.5, 1])],
)
def test_the_best_is_told_by_what_a_measure_is_for(best, ranked):
    measure = Measure("x", "x", "x", "x", best)
    assert sorted(reversed(ranked), key=measure.badness) == ranked


def test_a_look_is_put_into_words():
    original = photo()
    dull = np.round(original * 0.6 + original.mean(axis=2, keepdims=True) * 0.1 + 60).astype(np.uint8)
    said = in_words(measure_all(original, dull).__dict__)
    assert said.startswith("brighter, flatter, less saturated")
    assert in_words(measure_all(original, original).__dict__) == "no change of look"

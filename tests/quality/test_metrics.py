import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from vaekit.errors import PictureError
from vaekit.quality import Quality, ciede2000, measure, ms_ssim, psnr, ssim

# The test data of Sharma, Wu, Dalal 2005, table 1: two colours in L*a*b* and their difference.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]

pictures = arrays(np.uint8, (12, 13, 3))
few = settings(max_examples=25, deadline=None)


def flat(red: int, green: int, blue: int, side: int = 12) -> np.ndarray:
    return np.full((side, side, 3), (red, green, blue), np.uint8)


def lab(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """sRGB in 0..255 -> L*a*b* with white D65, from IEC 61966-2-1 and CIE 15."""
    r, g, b = (v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb)
    x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047
    y = 0.2126729 * r + 0.7151522 * g + 0.0721750 * b
    z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def delta_e(one: tuple[float, float, float], two: tuple[float, float, float]) -> float:
    """CIEDE2000 of two colours, written down from the paper's equations 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    mean_c = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 0.5 * (1 - math.sqrt(mean_c**7 / (mean_c**7 + 25**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 if a or b else 0.0 for a, b in ((a1, b1), (a2, b2)))
    dh = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    if c1 * c2 and h2 - h1 == 180:
        dh = 180.0
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * math.sqrt(c1 * c2) * math.sin(math.radians(dh / 2))
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    if c1 * c2 == 0:
        mean_h = h1 + h2
    elif abs(h1 - h2) <= 180:
        mean_h = (h1 + h2) / 2
    else:
        mean_h = (h1 + h2 + (360 if h1 + h2 < 360 else -360)) / 2
    cos = [math.cos(math.radians(angle)) for angle in (mean_h - 30, 2 * mean_h, 3 * mean_h + 6, 4 * mean_h - 63)]
    t = 1 - 0.17 * cos[0] + 0.24 * cos[1] + 0.32 * cos[2] - 0.20 * cos[3]
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / math.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    turn = math.radians(60 * math.exp(-(((mean_h - 275) / 25) ** 2)))
    r_t = -math.sin(turn) * 2 * math.sqrt(mean_c**7 / (mean_c**7 + 25**7))
    return math.sqrt((d_l / s_l) ** 2 + (d_c / s_c) ** 2 + (d_h / s_h) ** 2 + r_t * (d_c / s_c) * (d_h / s_h))


@pytest.mark.parametrize("one, two, expected", SHARMA)
def test_the_reference_formula_of_these_tests_gives_the_published_differences(one, two, expected):
    assert delta_e(one, two) == pytest.approx(expected, abs=5e-5)


# A seed and not a property: the formula jumps by up to 0.3 where two hues are opposite, and rounding decides the side.
@pytest.mark.parametrize("one, two", np.random.default_rng(0).integers(0, 256, (25, 2, 3)).tolist())
def test_ciede2000_of_flat_pictures_is_the_difference_of_their_colours(one, two):
    assert ciede2000(flat(*one), flat(*two)) == pytest.approx(delta_e(lab(one), lab(two)), abs=0.01)


def test_ciede2000_is_the_mean_over_pixels():
    a, b = flat(10, 200, 30), flat(10, 200, 30)
    b[:3] = (200, 10, 30)
    expected = delta_e(lab((10, 200, 30)), lab((200, 10, 30))) * 3 / 12
    assert ciede2000(a, b) == pytest.approx(expected, rel=1e-3)


def test_psnr_is_that_of_a_calculation_by_hand():
    assert psnr(flat(100, 100, 100), flat(110, 110, 110)) == pytest.approx(28.1308, abs=1e-4)  # 20 log10(25.5)
    assert psnr(flat(0, 0, 0), flat(255, 255, 255)) == 0
    assert psnr(flat(100, 100, 100), flat(110, 100, 100)) == pytest.approx(28.1308 + 10 * math.log10(3), abs=1e-4)


def test_ssim_of_flat_pictures_is_its_luminance_term():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(flat(100, 100, 100), flat(150, 150, 150)) == pytest.approx(expected, abs=1e-6)


@few
@given(pictures)
def test_a_picture_measured_against_itself_is_perfect(picture):
    quality = measure(picture, picture.copy())
    assert quality.psnr == math.inf
    assert quality.ssim == pytest.approx(1)
    assert quality.ciede2000 == 0


@few
@given(pictures, pictures)
def test_every_measure_is_symmetric(a, b):
    for metric in (psnr, ssim, ciede2000):
        assert metric(a, b) == pytest.approx(metric(b, a), rel=1e-9, abs=1e-12)


@few
@given(pictures, st.integers(1, 60))
def test_more_noise_measures_worse(picture, strength):
    noise = np.random.default_rng(0).integers(-1, 2, picture.shape)
    grey = (picture // 4 + 96).astype(int)  # room on both sides, so that nothing is clipped
    near, far = ((grey + noise * amount).astype(np.uint8) for amount in (strength // 2, strength))
    original = grey.astype(np.uint8)
    assert psnr(original, near) > psnr(original, far)
    assert ssim(original, near) > ssim(original, far)


def test_pil_pictures_measure_as_their_arrays():
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(2))
    assert measure(Image.fromarray(a), Image.fromarray(b)) == measure(a, b)


def test_grey_pil_pictures_measure_as_rgb():
    grey = Image.new("L", (16, 16), 100)
    assert psnr(grey, flat(110, 110, 110, side=16)) == pytest.approx(28.1308, abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim, ciede2000, measure])
def test_pictures_of_different_sizes_are_refused(metric):
    with pytest.raises(PictureError, match="12×12 and 16×16"):
        metric(flat(0, 0, 0), flat(0, 0, 0, side=16))


@pytest.mark.parametrize("array", [np.zeros((12, 12, 3)), np.zeros((12, 12), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_of_another_kind_are_refused(array):
    with pytest.raises(PictureError, match="uint8 array"):
        psnr(array, array)


def test_ssim_refuses_pictures_under_its_window_and_measure_leaves_it_out():
    tiny = flat(5, 6, 7, side=10)
    with pytest.raises(PictureError, match="11×11"):
        ssim(tiny, tiny)
    assert measure(tiny, tiny) == Quality(psnr=math.inf, ssim=None, ciede2000=0.0)
    assert measure(flat(5, 6, 7, side=11), flat(5, 6, 7, side=11)).ssim == pytest.approx(1)


def test_to_dict_is_valid_json_also_for_equal_pictures():
    equal, other = measure(flat(1, 2, 3), flat(1, 2, 3)).to_dict(), measure(flat(1, 2, 3), flat(9, 9, 9)).to_dict()
    assert json.loads(json.dumps(equal, allow_nan=False))["identical"] is True
    assert equal["psnr"] is None
    assert other["identical"] is False and other["psnr"] > 0


def similar(a: np.ndarray, b: np.ndarray, *, luminance: bool) -> float:
    """SSIM, or its contrast and structure alone, with a window of 11×11, written down from the paper's equations."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    x, y = (np.lib.stride_tricks.sliding_window_view(p.astype(float), (11, 11), axis=(0, 1)) for p in (a, b))
    mx, my = (x * window).sum((-1, -2)), (y * window).sum((-1, -2))
    vx, vy = (x**2 * window).sum((-1, -2)) - mx**2, (y**2 * window).sum((-1, -2)) - my**2
    both = (x * y * window).sum((-1, -2)) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * both + c2) / (vx + vy + c2)
    return float(((2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure if luminance else structure).mean())


def multiscale(a: np.ndarray, b: np.ndarray) -> float:
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        product *= max(0, similar(a, b, luminance=scale == 4)) ** weight
        a, b = (
            p[: p.shape[0] // 2 * 2, : p.shape[1] // 2 * 2]
            .reshape(p.shape[0] // 2, 2, p.shape[1] // 2, 2, 3)
            .mean((1, 3))
            for p in (a, b)
        )
    return product


def blocks(seed: int, height: int = 177, width: int = 190) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (26, 28, 3), dtype=np.uint8).repeat(7, 0).repeat(7, 1)[:height, :width]


def test_ms_ssim_is_that_of_the_paper():
    original = blocks(0)
    noisy = np.clip(original + np.random.default_rng(1).integers(-60, 61, original.shape), 0, 255).astype(np.uint8)
    assert ms_ssim(original, noisy) == pytest.approx(multiscale(original, noisy), abs=1e-6)
    pale = (original * 0.6 + 30).astype(np.uint8)
    assert ms_ssim(pale, original) == pytest.approx(multiscale(original, pale), abs=1e-6)


def test_ms_ssim_is_1_for_equal_pictures_and_never_negative():
    original = blocks(0)
    assert ms_ssim(original, original) == pytest.approx(1)
    assert 0 <= ms_ssim(original, 255 - original) < 0.1


def test_ms_ssim_refuses_pictures_whose_last_scale_is_under_the_window():
    with pytest.raises(PictureError, match="176×176, not 190×175"):
        ms_ssim(blocks(0, height=175), blocks(0, height=175))
    assert ms_ssim(blocks(0, height=176), blocks(0, height=176)) == pytest.approx(1)

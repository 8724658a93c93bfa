"""What a VAE does to pictures, told from originals and what came back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from doctor.making import PURPLE, Pixels, scene, to_image, with_blotch
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from vaekit import assets
from vaekit.doctor.behaviour import Behaviour, check_behaviour, measure_behaviour
from vaekit.doctor.findings import Finding
from vaekit.train.faults import pale

SCENES = [scene(160, 128, seed) for seed in (1, 2)]


def examined(change: Callable[[Pixels], Pixels]) -> tuple[Behaviour, list[Finding]]:
    behaviour = measure_behaviour([to_image(s) for s in SCENES], [to_image(change(s)) for s in SCENES])
    return behaviour, check_behaviour(behaviour)


def in_lab(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Pixels], Pixels]:
    return lambda picture: lab2rgb(change(rgb2lab(picture))).astype(np.float32)


def test_a_vae_that_changes_nothing_has_no_fault() -> None:
    behaviour, findings = examined(lambda picture: picture)
    assert findings == []
    assert (behaviour.psnr, behaviour.ssim, behaviour.blotches) == (100, pytest.approx(1), ())
    assert (behaviour.contrast, behaviour.saturation) == (pytest.approx(1), pytest.approx(1))
    assert (behaviour.green_magenta, behaviour.blue_yellow) == (pytest.approx(0), pytest.approx(0))


def test_a_vae_that_blurs_has_none_either() -> None:
    """It loses detail, but no colour: small VAEs do."""

    def blur(picture: Pixels) -> Pixels:
        small = to_image(picture).resize((80, 64), Image.Resampling.BOX)
        return np.asarray(small.resize((160, 128), Image.Resampling.BICUBIC), np.float32) / 255

    behaviour, findings = examined(blur)
    assert findings == []
    assert behaviour.contrast == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("axis", "shift", "name", "other"),
    [
        (1, 6, "magenta", "green_magenta"),
        (1, -6, "green", "green_magenta"),
        (2, 6, "yellow", "blue_yellow"),
        (2, -6, "blue", "blue_yellow"),
    ],
)
def test_a_cast_is_told_with_its_colour(axis: int, shift: int, name: str, other: str) -> None:
    def tint(lab: np.ndarray) -> np.ndarray:
        lab[..., 0] = 20 + 0.6 * lab[..., 0]  # away from black and white, where nothing can be tinted
        lab[..., 1:] *= 0.9
        lab[..., axis] += shift
        return lab

    behaviour, findings = examined(in_lab(tint))
    cast = [finding for finding in findings if finding.fault == "colour-cast"]
    assert getattr(behaviour, other) == pytest.approx(shift, abs=1)
    assert f"to {name}: " in cast[0].what


def test_paleness_alone_is_no_cast() -> None:
    """The mean colour of pale pictures has moved to grey, and grey is where it was."""

    def fade(lab: np.ndarray) -> np.ndarray:
        return np.stack([30 + 0.6 * lab[..., 0], 0.5 * lab[..., 1], 0.5 * lab[..., 2]], axis=-1)

    behaviour, findings = examined(in_lab(fade))
    assert [finding.fault for finding in findings] == ["pale"]
    assert (behaviour.contrast, behaviour.saturation) == (pytest.approx(0.6, abs=0.02), pytest.approx(0.5, abs=0.02))
    assert "60% of the contrast and 50% of the saturation" in findings[0].what


def test_the_fault_that_mini_pale_was_trained_on_is_found_on_the_sample_photos() -> None:
    photos = [Image.open(photo).convert("RGB") for photo in assets.sample_photos()]
    faded = []
    for photo in photos:
        x = torch.from_numpy(np.asarray(photo, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        faded.append(to_image((pale(x)[0].permute(1, 2, 0).numpy() + 1) / 2))
    assert [finding.fault for finding in check_behaviour(measure_behaviour(photos, faded))] == ["pale"]


def test_purple_blotches_are_found_where_the_original_has_none() -> None:
    spotted = [with_blotch(picture, 60, 50) for picture in SCENES]
    before, after = [to_image(s) for s in SCENES], [to_image(s) for s in spotted]
    (finding,) = check_behaviour(measure_behaviour(before, after))
    assert (finding.fault, finding.sure) == ("purple-blotches", "likely")
    assert "in 2 places" in finding.what
    assert finding.where.startswith("worst in photo ")
    assert check_behaviour(measure_behaviour(after, after)) == []


def test_other_blotches_are_not_purple_ones() -> None:
    _, findings = examined(lambda picture: with_blotch(picture, 60, 50, colour=(0.1, 0.8, 0.2)))
    assert "purple-blotches" not in [finding.fault for finding in findings]
    assert PURPLE[1] < PURPLE[0]


def test_what_is_no_picture_any_more_has_that_one_fault() -> None:
    rng = np.random.default_rng(0)
    behaviour, findings = examined(lambda picture: rng.random(picture.shape, np.float32))
    assert [finding.fault for finding in findings] == ["not-the-picture"]
    assert f"{behaviour.psnr:.1f} dB" in findings[0].what


def test_grey_photos_tell_nothing_about_saturation() -> None:
    grey = [np.repeat(s.mean(axis=2, keepdims=True), 3, axis=2) for s in SCENES]
    behaviour = measure_behaviour([to_image(g) for g in grey], [to_image(g) for g in grey])
    assert behaviour.saturation is None
    assert check_behaviour(behaviour) == []

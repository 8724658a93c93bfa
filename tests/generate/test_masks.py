"""What a mask can wish for: its inverse, what stands under it at the beginning, and drawing around it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from generate.models import SIDE
from PIL import Image

from vaekit.errors import OptionError
from vaekit.generate.delivery import decode
from vaekit.generate.painter import Drawn, Painter
from vaekit.generate.pictures import prepare, surroundings
from vaekit.generate.settings import Change, Settings

PLAIN = Settings("a red apple", steps=3, seed=5)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Of twice the side: a square of 16 pixels."""
    grey = Image.new("L", (2 * SIDE, 2 * SIDE), 0)
    grey.paste(255, (32, 32, 48, 48))
    grey.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def changed(painter: Painter, change: Change, settings: Settings = PLAIN) -> Drawn:
    (one,) = painter.img2img(change, settings)
    return one


def test_surroundings_reach_under_the_mask_and_nothing_else_changes() -> None:
    half = Image.new("RGB", (64, 64), (200, 40, 10))
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 56, 56))
    covered = half.copy()
    covered.paste((0, 255, 0), (8, 8, 56, 56))
    found = np.asarray(surroundings(covered, mask)).astype(int)
    assert np.abs(found - np.asarray(half)).max() <= 1
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 50, 3), dtype=np.uint8))
    assert surroundings(noisy, Image.new("L", noisy.size, 0)).tobytes() == noisy.tobytes()


def test_a_mask_turned_round_draws_the_rest(painter: Painter, picture: Path, mask: Path) -> None:
    drawn = np.asarray(decode(changed(painter, Change(picture, 0.9, mask=mask, blur=0, invert=True))))
    before = np.asarray(Image.open(picture))
    assert (drawn[32:48, 32:48] == before[32:48, 32:48]).all()
    assert (drawn[:32] != before[:32]).mean() > 0.5


def test_each_fill_begins_with_something_else(painter: Painter, picture: Path, mask: Path) -> None:
    found = [
        changed(painter, Change(picture, 0.5, mask=mask, fill=fill)).latents.tensor  # type: ignore[arg-type]
        for fill in ("original", "surroundings", "noise", "nothing")
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert all(torch.isfinite(one).all() for one in found)


def test_around_the_mask_alone_the_part_is_drawn_large_and_put_back(
    painter: Painter, picture: Path, mask: Path
) -> None:
    change = Change(picture, 0.9, mask=mask, blur=0, area="masked", margin=8)
    subject = prepare(change, (SIDE, SIDE))
    assert subject.frame is not None and subject.frame.box == (24, 24, 56, 56)
    drawn = changed(painter, change, Settings("a red apple", steps=3, seed=5, size=(SIDE, SIDE)))
    assert drawn.latents.size == (SIDE, SIDE)
    assert "Inpaint area: Only masked" in str(drawn.text)
    whole, before = np.asarray(decode(drawn)), np.asarray(Image.open(picture))
    outside = np.ones(whole.shape[:2], bool)
    outside[32:48, 32:48] = False
    assert whole.shape == before.shape
    assert (whole[outside] == before[outside]).all() and (whole[~outside] != before[~outside]).any()


def test_the_box_keeps_to_the_shape_that_is_drawn_and_to_the_picture(picture: Path, tmp_path: Path) -> None:
    corner = Image.new("L", (2 * SIDE, 2 * SIDE), 0)
    corner.paste(255, (60, 0, 64, 40))
    corner.save(tmp_path / "corner.png")
    subject = prepare(Change(picture, mask=tmp_path / "corner.png", blur=0, area="masked", margin=0), (SIDE, SIDE))
    assert subject.frame is not None and subject.frame.box == (24, 0, 64, 40)
    assert subject.picture.size == (SIDE, SIDE)


def test_what_cannot_be_is_refused(picture: Path, mask: Path, tmp_path: Path) -> None:
    for wrong in ({"invert": True}, {"fill": "noise"}, {"area": "masked"}):
        with pytest.raises(OptionError, match="of a mask"):
            Change(picture, **wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no fill is called"):
        Change(picture, mask=mask, fill="grass")  # type: ignore[arg-type]
    Image.new("L", (2 * SIDE, 2 * SIDE), 0).save(tmp_path / "black.png")
    with pytest.raises(OptionError, match="black all over"):
        prepare(Change(picture, mask=tmp_path / "black.png", area="masked"), None)

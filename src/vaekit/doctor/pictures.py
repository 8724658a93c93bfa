"""The known faults of decoded pictures, found in one picture by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vaekit.doctor.black import find_black_tiles, is_black
from vaekit.doctor.blotches import find_blotches, purple_share
from vaekit.doctor.findings import Finding, Sure, in_words
from vaekit.doctor.paleness import Tones
from vaekit.doctor.seams import find_seams

Values = NDArray[np.float32]

PURPLE_PICTURE = 0.02
"""Share of purple pixels beside the blotches from which on they may belong to what the picture shows."""

IN_FLOAT32 = "decode again with vaekit, which repeats in float32 what overflows; elsewhere switch half precision off \
for the VAE (--no-half-vae), or take bfloat16, or a VAE made for float16 (vaekit doctor VAE tells whether it is)"
OTHER_DECODER = "decode the same latents with another VAE of the family; for SD 1.x, ft-EMA or ft-MSE"
PALE_ADVICE = "if it is not meant so: take another VAE of the family (vaekit compare), and check that the VAE's family \
and scaling are those of the model"
SEAM_ADVICE = "decode in one piece, or with larger tiles and more overlap"


def check_picture(picture: Values, tones: Tones) -> list[Finding]:
    """What is wrong with a picture [H, W, 3] in [0, 1]; of one that is black all over nothing else is said.

    tones: its own, from `measure_tones`.
    """
    if is_black(picture):
        what = "black all over: the decoder most likely gave NaN"
        return [Finding("black", what, "the whole picture", "certain", IN_FLOAT32)]
    return [*_black_tiles(picture), *_blotches(picture), *_paleness(tones), *_seams(picture)]


def _black_tiles(picture: Values) -> Iterator[Finding]:
    for box in find_black_tiles(picture):
        what = "a black tile: the decoder most likely gave NaN there"
        yield Finding("black", what, in_words(box), "likely", IN_FLOAT32, box)


def _blotches(picture: Values) -> Iterator[Finding]:
    found = find_blotches(picture)
    beside = purple_share(picture) - sum(patch.side**2 for patch in found) / (picture.shape[0] * picture.shape[1])
    for patch in found:
        sure: Sure = "possible" if beside > PURPLE_PICTURE else "likely"
        yield Finding("purple-blotches", "a purple blotch", in_words(patch.box), sure, OTHER_DECODER, patch.box)


def _paleness(tones: Tones) -> Iterator[Finding]:
    if tones.washed_out:
        what = f"washed out: nothing darker than {tones.darkest:.0%}, no colour stronger than {tones.strongest:.0%}"
        yield Finding("pale", what, "the whole picture", "likely", PALE_ADVICE)


def _seams(picture: Values) -> Iterator[Finding]:
    height, width = picture.shape[:2]
    seams = find_seams(picture)
    sure: Sure = "likely" if len(seams) > 1 else "possible"  # one line alone may be a horizon or a door
    for seam in seams:
        upright = seam.direction == "vertical"
        box = (seam.at - 1, 0, seam.at + 1, height) if upright else (0, seam.at - 1, width, seam.at + 1)
        what = f"a {seam.direction} seam of tiles: the colour jumps by {seam.jump:.1f} of 255 levels"
        yield Finding("seam", what, f"{'x' if upright else 'y'} = {seam.at}", sure, SEAM_ADVICE, box)

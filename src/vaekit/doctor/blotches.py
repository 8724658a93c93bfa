"""Purple blotches, the known artefact of SD 1.x's standard VAE: soft patches of saturated purple.

What tells one from a flower, a dress or a lamp is its edge: a decoder makes it out of latents, of which one cell is
eight pixels, so colour fades over several pixels all around; it covers texture like paint; and it stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaekit.quality.places import Box

Values = NDArray[np.float32]
Mask = NDArray[np.bool_]

LIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)

SMALLEST, LARGEST = 6, 80
"""Pixels on a side of what is looked at."""
REACH = LARGEST + 16
MOST = 300
"""Peaks of purple that are looked at, the strongest first: a picture with more of them is a purple picture."""

STRENGTH = 0.2
"""How much green is missing, of a range of 1."""
SOFT = 4.3
"""Pixels over which a patch fades where its edge is sharpest; for the smallest patches, SOFT_SHARE of their side."""
SOFT_SHARE = 0.7
FILL = 0.65
"""Least share of its bounding box; a disc has 0.79."""
CORE = 0.2
"""Least share of the patch that is nearly as purple as its peak."""
ALONE = 0.28
"""Most purple around it, beside its own."""
SMOOTH = 0.1
"""Largest standard deviation of lightness in its core, of a range of 1."""
FAINT = 0.15
"""Purple that is not looked at."""


@dataclass(frozen=True)
class Patch:
    """A connected region that is at least half as purple as its peak, and what tells whether it is a blotch.

    strength: purple at the peak. side: root of the area. fade: pixels from nothing to full strength, where its edge
    is sharpest. fill: of the bounding box. core: share of the area near full strength. around: purple beside it, as
    a share of its own. roughness: of lightness in the core. colour: mean RGB of the core.
    """

    box: Box
    strength: float
    side: float
    fade: float
    fill: float
    core: float
    around: float
    roughness: float
    colour: tuple[float, float, float]

    @property
    def is_blotch(self) -> bool:
        """Whether, in a picture by itself, nothing else looks so."""
        red, _, blue = self.colour
        return (
            self.strength >= STRENGTH
            and self.fade >= min(SOFT, SOFT_SHARE * self.side)
            and self.fill >= FILL
            and self.core >= CORE
            and self.around <= ALONE
            and self.roughness <= SMOOTH
            and 0.4 * blue <= red <= blue / 0.7
        )


def find_blotches(picture: Values) -> list[Patch]:
    """Blotches of a picture [H, W, 3] in [0, 1] that has no original beside it, the strongest first."""
    return [patch for patch in _patches(picture, purple(picture)) if patch.is_blotch]


def purple(picture: Values) -> Values:
    """How purple each pixel is: red and blue beyond green, under 0 for green, [H, W] for [H, W, 3] in [0, 1]."""
    return np.minimum(picture[..., 0], picture[..., 2]) - picture[..., 1]


def purple_share(picture: Values) -> float:
    """Share of the pixels that are as purple as a blotch."""
    return float(np.mean(purple(picture) >= STRENGTH))


def _patches(picture: Values, amount: Values) -> Iterator[Patch]:
    """Around each peak of `amount`, the strongest first, the region of at least half of it; no two overlap."""
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian

    smooth = np.asarray(gaussian(amount, 1.0), np.float32)  # type: ignore[no-untyped-call]
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        smooth, min_distance=4, threshold_abs=FAINT, exclude_border=False, num_peaks=MOST
    )
    taken = np.zeros(amount.shape, bool)
    for y, x in peaks:
        if taken[y, x]:
            continue
        top, left = max(0, y - REACH), max(0, x - REACH)
        window = np.s_[top : y + REACH + 1, left : x + REACH + 1]
        region = _region(smooth[window], y - top, x - left)
        taken[window] |= region
        patch = _describe(picture[window], smooth[window], region, (left, top))
        if patch is not None:
            yield patch


def _region(amount: Values, y: int, x: int) -> Mask:
    from skimage.measure import label

    labels = label(amount >= amount[y, x] / 2, connectivity=1)  # type: ignore[no-untyped-call]
    return np.asarray(labels == labels[y, x])


def _describe(picture: Values, amount: Values, region: Mask, corner: tuple[int, int]) -> Patch | None:
    """None for what is too small, too large, or without surroundings in the picture."""
    from skimage.morphology import isotropic_dilation, isotropic_erosion

    rows, columns = np.nonzero(region)
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    side = math.sqrt(rows.size)
    if max(height, width) > LARGEST or side < SMALLEST:
        return None
    reach = max(3.0, 0.3 * side)
    near, far = isotropic_dilation(region, reach), isotropic_dilation(region, 2 * reach)  # type: ignore[no-untyped-call]
    around, edge = far & ~near, region & ~isotropic_erosion(region, 1)  # type: ignore[no-untyped-call]
    if not around.any() or not edge.any():
        return None
    strength = float(amount[region].max())
    slope = float(np.percentile(np.hypot(*np.gradient(amount))[edge], 90))
    core = region & (amount >= 0.8 * strength)
    colour = picture[core].mean(axis=0)
    left, top = int(corner[0] + columns.min()), int(corner[1] + rows.min())
    return Patch(
        box=(left, top, left + width, top + height),
        strength=strength,
        side=side,
        fade=strength / max(slope, 1e-4),
        fill=rows.size / (height * width),
        core=float(core.sum()) / rows.size,
        around=float(np.percentile(amount[around], 90)) / strength,
        roughness=float((picture[core] @ LIGHTNESS).std()),
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
    )

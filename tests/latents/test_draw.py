"""Pictures of latents: the pixels are checked, not the fact that there are some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaekit.errors import LatentsError, OptionError
from vaekit.families import families, family
from vaekit.latents import Latents
from vaekit.latents.draw import Palette, Scale, channels, preview, sheet

MAGENTA = [255, 0, 255]


def latents_of(tensor: torch.Tensor, name: str = "sd1") -> Latents:
    f = family(name)
    return Latents(tensor, f, (tensor.shape[3] * f.downscale, tensor.shape[2] * f.downscale))


def random(name: str = "sd1", height: int = 6, width: int = 5, batch: int = 1) -> Latents:
    generator = torch.Generator().manual_seed(1)
    return latents_of(torch.randn(batch, family(name).latent_channels, height, width, generator=generator), name)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def steps(values: list[float]) -> Latents:
    """Four equal channels of one row."""
    return latents_of(torch.tensor(values).expand(1, 4, 1, len(values)).clone())


@pytest.mark.parametrize("zoom", [1, 4])
def test_every_cell_becomes_a_square_of_one_colour(zoom: int) -> None:
    pictures = channels(random(), zoom=zoom)
    assert [picture.size for picture in pictures] == [(5 * zoom, 6 * zoom)] * 4
    for large, small in zip(pictures, channels(random(), zoom=1), strict=True):
        assert np.array_equal(pixels(large), pixels(small).repeat(zoom, 0).repeat(zoom, 1))


def test_grey_goes_from_black_to_white_in_the_order_of_the_values() -> None:
    row = pixels(channels(steps([-3.0, -1.0, 0.0, 2.0]), zoom=1)[0])[0]
    assert row[0].tolist() == [0, 0, 0] and row[-1].tolist() == [255, 255, 255]
    assert (np.diff(row[:, 0]) > 0).all() and (row[:, 0] == row[:, 2]).all()


def test_diverging_is_white_at_zero_blue_below_and_red_above() -> None:
    negative, zero, positive = pixels(channels(steps([-1.0, 0.0, 4.0]), palette="diverging", zoom=1)[0])[0]
    assert negative[2] > negative[0] + 30
    assert zero.min() > 240
    assert positive[0] > positive[2] + 100


def test_diverging_is_symmetric_about_zero() -> None:
    palest, strongest = (
        pixels(channels(steps([sign * 1.0, 4.0, -4.0]), palette="diverging", zoom=1)[0])[0, 0] for sign in (1, -1)
    )
    up, down = 247 - palest.min(), 247 - strongest.min()
    assert abs(up - down) < 40


def test_a_common_scale_keeps_channels_comparable_and_their_own_does_not() -> None:
    tensor = torch.linspace(-1, 1, 64).view(1, 1, 8, 8) * torch.tensor([1.0, 10.0, 1.0, 1.0]).view(1, 4, 1, 1)
    common = [pixels(picture).std() for picture in channels(latents_of(tensor), scale="common")]
    own = [pixels(picture) for picture in channels(latents_of(tensor), scale="channel")]
    assert common[1] > 5 * common[0]
    assert np.array_equal(own[0], own[1])


def test_one_outlier_does_not_grey_out_the_rest() -> None:
    tensor = random(height=32, width=32).tensor
    tensor[0, 0, 0, 0] = 1e6
    assert pixels(channels(latents_of(tensor))[0]).std() > 30


def test_nan_is_magenta_and_nothing_else_is() -> None:
    tensor = random().tensor
    tensor[0, 2, 1, 3] = torch.nan
    grey, diverging = channels(latents_of(tensor), zoom=1), channels(latents_of(tensor), palette="diverging", zoom=1)
    assert [magenta(picture) for picture in grey] == [[], [], [[1, 3]], []]
    assert [magenta(picture) for picture in diverging] == [[], [], [[1, 3]], []]
    assert magenta(preview(latents_of(tensor))) == [[1, 3]]


def magenta(picture: Image.Image) -> list[list[int]]:
    return np.argwhere((pixels(picture) == MAGENTA).all(2)).tolist()


@given(
    st.lists(st.floats(width=64), min_size=8, max_size=8),
    st.sampled_from(["grey", "diverging"]),
    st.sampled_from(["common", "channel"]),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("error")
def test_any_numbers_can_be_drawn(values: list[float], palette: Palette, scale: Scale) -> None:
    tensor = torch.tensor(values, dtype=torch.float64).view(1, 4, 1, 2)
    picture = sheet(latents_of(tensor), palette=palette, scale=scale, zoom=1)
    assert picture.mode == "RGB"
    drawn = np.stack([pixels(p)[0] for p in channels(latents_of(tensor), palette=palette, scale=scale, zoom=1)])
    assert np.array_equal((drawn == MAGENTA).all(-1), tensor.isnan()[0, :, 0].numpy())


@given(st.lists(st.floats(-5, 5), min_size=16, max_size=16), st.permutations(range(16)))
@settings(max_examples=30, deadline=None)
def test_a_larger_value_is_never_darker(values: list[float], order: list[int]) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)[order].expand(1, 4, 1, 16)
    shades = pixels(channels(latents_of(tensor), zoom=1)[0])[0, :, 0]
    assert (np.diff(shades[tensor[0, 0, 0].argsort().numpy()]) >= 0).all()


def test_half_precision_and_gradients_are_drawn_as_well() -> None:
    values = random().tensor
    expected = pixels(sheet(latents_of(values)))
    assert np.array_equal(pixels(sheet(latents_of(values.clone().requires_grad_()))), expected)
    assert (
        np.abs(pixels(channels(latents_of(values.bfloat16()))[0]) - pixels(channels(latents_of(values))[0])).max() < 4
    )


def test_index_picks_a_picture_of_the_batch() -> None:
    batch = random(batch=3)
    for index in range(3):
        alone = latents_of(batch.tensor[index : index + 1])
        assert np.array_equal(pixels(sheet(batch, index=index)), pixels(sheet(alone)))


def test_the_preview_of_zeros_is_the_bias_of_the_family() -> None:
    for name in ("sd1", "sdxl", "flux2"):
        f = family(name)
        picture = preview(latents_of(torch.zeros(1, f.latent_channels, 2, 3), name), zoom=2)
        expected = [round((bias + 1) * 127.5) for bias in f.preview_bias]
        assert (np.abs(pixels(picture) - expected) <= 1).all()


def test_the_preview_applies_each_channels_factors() -> None:
    f = family("sdxl")
    assert f.preview
    for channel, factors in enumerate(f.preview):
        tensor = torch.zeros(1, 4, 1, 1)
        tensor[0, channel] = 1.5
        expected = [(1.5 * factor + bias + 1) * 127.5 for factor, bias in zip(factors, f.preview_bias, strict=True)]
        assert np.abs(pixels(preview(latents_of(tensor, "sdxl")))[0, 0] - np.clip(expected, 0, 255)).max() <= 1


def test_a_folded_family_has_a_finer_preview_with_the_patches_in_place() -> None:
    f = family("flux2")
    tensor = torch.zeros(1, 128, 2, 3)
    tensor[0, 3 * 4 + 2, 1, 1] = 2.0  # raw channel 3, which is bright, in the lower left corner of its cell
    picture = pixels(preview(latents_of(tensor, f.name)))
    assert picture.shape == (4, 6, 3)
    assert np.argwhere((picture != picture[0, 0]).any(2)).tolist() == [[3, 2]]
    assert picture[3, 2].sum() > picture[0, 0].sum()


def test_a_family_without_factors_says_so() -> None:
    without = [f.name for f in families().values() if not f.preview]
    for name in without:
        with pytest.raises(LatentsError, match=f"{name} has no preview factors"):
            preview(random(name))


@pytest.mark.parametrize("name", ["sd1", "playground25", "flux1", "flux2"])
def test_a_sheet_shows_every_channel_whole_and_once(name: str) -> None:
    latents = random(name, height=4, width=6)
    picture = packed(sheet(latents, zoom=4))
    tiles = [packed(tile) for tile in channels(latents, zoom=4)]
    assert len({_find(picture, tile) for tile in tiles}) == len(tiles)
    assert 0.5 < picture.shape[1] / picture.shape[0] < 4


def packed(picture: Image.Image) -> np.ndarray:
    """One number per pixel."""
    return np.dot(pixels(picture), np.array([65536, 256, 1]))  # type: ignore[no-any-return]


def _find(picture: np.ndarray, tile: np.ndarray) -> tuple[int, int]:
    """Where the tile stands in the picture; it must be there once."""
    height, width = tile.shape
    places = np.argwhere(picture[: 1 - height, : 1 - width] == tile[0, 0])
    for y, x in np.ndindex(height, width):
        places = places[picture[places[:, 0] + y, places[:, 1] + x] == tile[y, x]]
    assert len(places) == 1
    return int(places[0, 0]), int(places[0, 1])


def test_a_sheet_has_a_label_above_every_tile() -> None:
    labelled = pixels(sheet(random("playground25", height=16, width=40), columns=4))
    for column in range(4):
        strip = labelled[12:34, 12 + column * (160 + 12) :][:, :160]
        assert (strip.sum(2) < 200).sum() > 50  # dark pixels of letters


def test_labels_of_small_channels_do_not_run_into_each_other() -> None:
    small = pixels(sheet(random("playground25", height=1, width=1), columns=4, zoom=1))
    dark = np.flatnonzero((small[12:34] < 128).any((0, 2)))
    assert (np.diff(dark) >= 12).sum() >= 3  # a gap between each two labels


@pytest.mark.parametrize(("columns", "shape"), [(1, (4, 1)), (2, (2, 2)), (4, (1, 4)), (9, (1, 4))])
def test_columns_sets_the_width_of_the_grid(columns: int, shape: tuple[int, int]) -> None:
    tile = 160
    picture = sheet(random("playground25", height=40, width=40), columns=columns)
    assert (picture.height // tile, picture.width // tile) == shape


@pytest.mark.parametrize(
    "options",
    [
        {"palette": "rainbow"},
        {"scale": "log"},
        {"zoom": 0},
        {"zoom": 100_000},
        {"zoom": 2000},
        {"index": 1},
        {"index": -1},
        {"columns": 0},
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        sheet(random(), **options)  # type: ignore[arg-type]

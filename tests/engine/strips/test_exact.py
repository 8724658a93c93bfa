"""In strips or in one piece, the result is the same: sizes, budgets, strip heights, both directions, all networks."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_KL, SMALL_TINY, random_state, small_vae, winograd_everywhere
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vaekit
from vaekit.engine.half import Direction, Half, Ration, rows_into, rows_of
from vaekit.engine.strips import one_piece, planning
from vaekit.engine.strips.budget import Budget
from vaekit.engine.strips.running import Progress
from vaekit.engine.strips.task import Rates
from vaekit.errors import NumericsError, OptionError
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig
from vaekit.networks.kl import KL
from vaekit.networks.tiny import Tiny

TOLERANCE = 2e-4
CPU = torch.device("cpu")
KL_3 = KLConfig(4, (16, 32, 32), (16, 32, 48), encoder_blocks=1, decoder_blocks=2, norm_groups=8)
NETWORKS: dict[str, NetworkConfig] = {
    "kl": KL_3,
    "mirrored": replace(KL_3, padding_mode="reflect"),
    "without attention": replace(KL_3, encoder_attention=False, decoder_attention=False),
    "bare": replace(KL_3, quant_conv=False, post_quant_conv=False, latent_channels=16),
    "tiny": TinyConfig(4, 16, (1, 2, 1), (2, 1, 1)),
    "pooled": TinyConfig(4, 16, (1, 2, 1), (2, 1, 1), encoder_pooled=True, decoder_pooled=True),
}
SIDES = st.one_of(st.integers(1, 12), st.sampled_from([1, 13, 17, 31, 53]))


def half(config: NetworkConfig, direction: Direction, dtype: torch.dtype = torch.float32) -> Half:
    """With weights that give every layer something to do."""
    state = random_state(config)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            state[name] = noise * 1.2 / tensor[0].numel() ** 0.5
        else:
            state[name] = 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    return Half(direction, config, state, dtype=dtype, device=CPU)


HALVES = {(name, way): half(config, way) for name, config in NETWORKS.items() for way in ("decode", "encode")}


def plain(one: Half, x: Tensor) -> Tensor:
    """By the network as it stands in networks/, with what is not of it loaded anew."""
    network = KL(one.config) if isinstance(one.config, KLConfig) else Tiny(one.config)
    network.to(one.dtype).load_state_dict(one.network.state_dict())
    with torch.inference_mode():
        if one.direction == "decode":
            return network.decode(x)
        moments = network.moments(x)
        return moments.mean if moments.logvar is None else torch.cat([moments.mean, moments.logvar], 1)


def in_strips(one: Half, x: Tensor, ration: Ration) -> Tensor:
    batch, _, height, width = x.shape
    out = torch.full((batch, *one.result_shape(height, width)), torch.nan)
    one.run((batch, height, width), rows_of(x), rows_into(out), ration)
    return out


@pytest.mark.parametrize("way", ["decode", "encode"])
@pytest.mark.parametrize("name", NETWORKS)
@given(
    height=SIDES,
    width=SIDES,
    rows=st.integers(1, 9),
    spare=st.floats(0, 1),
    seed=st.integers(0, 99),
    winograd=st.booleans(),
)
@settings(max_examples=18, deadline=None)
def test_strips_give_what_one_piece_gives(
    name: str, way: Direction, height: int, width: int, rows: int, spare: float, seed: int, winograd: bool
) -> None:
    assume(name != "mirrored" or height * width > 1)  # see the next test
    with winograd_everywhere(winograd):
        _strips_give_what_one_piece_gives(name, way, height, width, rows, spare, seed)


def _strips_give_what_one_piece_gives(
    name: str, way: Direction, height: int, width: int, rows: int, spare: float, seed: int
) -> None:
    one = HALVES[name, way]
    side = 1 if way == "decode" else 4
    x = torch.randn(1, one.line.steps[0].channels, height * side, width * side, generator=torch.manual_seed(seed))
    task = one.task(height * side, width * side, Ration(Budget(1 << 40, True), rows=rows))
    least, most = planning.smallest(replace(task, rows=None)), one_piece.one_piece_bytes(task)
    budget = Budget(int(least + spare * max(most - least, least / 4)), True)
    assume(planning.plan(task, budget.bytes) is not None)
    wanted = plain(one, x)
    assert (in_strips(one, x, Ration(budget, rows=rows)) - wanted).abs().max() < TOLERANCE * max(1, wanted.abs().max())


def test_a_single_mirrored_cell_is_as_near_as_its_rounding_allows() -> None:
    """Its picture is constant, and norms over a few constants amplify the last digits, in whatever order they come."""
    one = HALVES["mirrored", "decode"]
    x = torch.randn(1, 4, 1, 1, generator=torch.manual_seed(1))
    assert (in_strips(one, x, Ration(Budget(1 << 40, True), rows=1)) - plain(one, x)).abs().max() < 20 * TOLERANCE


@pytest.mark.parametrize("way", ["decode", "encode"])
@pytest.mark.parametrize("name", ["kl", "tiny"])
def test_half_precision_is_no_worse_in_strips(name: str, way: Direction) -> None:
    wide, narrow = HALVES[name, way], half(NETWORKS[name], way, torch.bfloat16)
    x = torch.randn(8 if way == "encode" else 2, wide.line.steps[0].channels, 64, 48, generator=torch.manual_seed(3))
    exact = plain(wide, x)
    whole, strips = (in_strips(narrow, x, Ration(Budget(1 << 40, True), rows=rows)) for rows in (None, 5))
    errors = [float((one - exact).square().mean().log10() * 10) for one in (strips, whole)]
    assert errors[0] < errors[1] + 0.1


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_places_change_nothing(rows: int) -> None:
    """All kept, all spilled, and done again wherever that can be: the same numbers."""
    one = HALVES["kl", "decode"]
    x = torch.randn(1, 4, 19, 23, generator=torch.manual_seed(4))
    wanted = plain(one, x)
    for rates in (
        Rates(spilled=1e15, moved=1e15),
        Rates(spilled=1.0),
        Rates(operations=1e18, spilled=1.0, moved=1.0, call=0),
    ):
        ration = Ration(Budget(1 << 40, True), rows=rows, rates=rates)
        assert (in_strips(one, x, ration) - wanted).abs().max() < TOLERANCE


def test_each_picture_of_a_batch_is_what_it_is_alone() -> None:
    one = HALVES["kl", "decode"]
    x = torch.randn(3, 4, 11, 9, generator=torch.manual_seed(5))
    ration = Ration(Budget(1 << 40, True), rows=3)
    together = in_strips(one, x, ration)
    for i in range(3):
        assert torch.equal(together[i : i + 1], in_strips(one, x[i : i + 1], ration))


def test_a_constant_picture_and_one_far_from_zero_keep_their_digits() -> None:
    """Statistics of values that hardly differ, where squares lose everything."""
    one = HALVES["kl", "decode"]
    for x in (torch.full((1, 4, 24, 24), 3.0), torch.randn(1, 4, 24, 24) * 1e-3 + 40):
        wanted = plain(one, x)
        strips = in_strips(one, x, Ration(Budget(1 << 40, True), rows=4))
        assert (strips - wanted).abs().max() < 10 * TOLERANCE * max(1, wanted.abs().max())


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_an_attention_window_is_the_same_in_any_strips_and_all_there_is_where_it_is_large(way: Direction) -> None:
    side = 24 if way == "decode" else 96
    x = torch.randn(1, 4 if way == "decode" else 3, side, 20, generator=torch.manual_seed(8))
    small, large = (half(replace(KL_3, attention_window=rows), way) for rows in (2, 50))
    exact = plain(HALVES["kl", way], x)
    some = [in_strips(small, x, Ration(Budget(1 << 40, True), rows=rows)) for rows in (None, 2, 7)]
    assert (some[0] - some[1]).abs().max() < TOLERANCE and (some[0] - some[2]).abs().max() < TOLERANCE
    assert (some[0] - exact).abs().max() > 10 * TOLERANCE
    assert (in_strips(large, x, Ration(Budget(1 << 40, True), rows=4)) - exact).abs().max() < TOLERANCE


# By the public face


def test_decode_inside_a_budget_is_decode() -> None:
    vae = small_vae(SMALL_KL)
    z = torch.randn(1, 4, 90, 70, generator=torch.manual_seed(6))
    whole = vae.decode(z, output="tensor", memory="8GiB")
    budget = 100 << 20
    assert vae.forecast((560, 720), memory="8GiB", output="tensor").plan is None
    assert vae.forecast((560, 720), memory=budget, output="tensor").strips > 1
    assert (vae.decode(z, output="tensor", memory=budget) - whole).abs().max() < TOLERANCE
    pictures = [np.asarray(vae.decode(z, memory=memory), int) for memory in ("8GiB", budget)]
    assert abs(pictures[0] - pictures[1]).max() <= 1


def test_encoding_draws_the_same_noise_whatever_the_strips() -> None:
    vae = small_vae(SMALL_KL)
    x = torch.rand(2, 3, 501, 333, generator=torch.manual_seed(7)) * 2 - 1
    whole, strips = (vae.encode(x, sample=True, seed=5, memory=memory) for memory in ("8GiB", "90MiB"))
    assert (whole.tensor - strips.tensor).abs().max() < TOLERANCE
    assert not torch.equal(whole.tensor, vae.encode(x, memory="90MiB").tensor)


def test_the_bundled_vaes_against_tiles_as_diffusers_cuts_them(photos: list[Path]) -> None:
    """What is at stake: the same latents, by diffusers' enable_tiling."""
    from diffusers import AutoencoderKL

    from vaekit import assets

    vae = vaekit.load("mini", dtype="float32")
    z = vae.encode(photos[0])
    whole = vae.decode(z, output="tensor", memory="8GiB")
    least = vae.forecast(z.size, memory="8GiB", output="tensor").memory // 8
    exact = vae.decode(z, output="tensor", memory=least)
    tiled = AutoencoderKL.from_pretrained(assets.model_folder("mini"))
    tiled.enable_tiling()
    tiled.tile_latent_min_size, tiled.tile_sample_min_size = 32, 256
    with torch.inference_mode():
        cut = tiled.decode(z.tensor / tiled.config.scaling_factor).sample[..., : z.size[1], : z.size[0]]
    assert (exact - whole).abs().max() < TOLERANCE
    assert (cut - whole).abs().max() > 100 * TOLERANCE


# What cannot be


def test_a_budget_that_is_too_small_is_refused_with_the_one_that_does() -> None:
    vae = small_vae(SMALL_KL)
    z = torch.randn(1, 4, 64, 64)
    with pytest.raises(OptionError, match=r"512×512 cannot be decoded in 1 MiB .* least that does is (\d+)MiB") as told:
        vae.decode(z, memory="1MiB")
    least = str(told.value).split("least that does is ")[1].split("MiB")[0]
    vae.decode(z, memory=f"{least}MiB")
    with pytest.raises(OptionError):
        vae.decode(z, memory=f"{int(least) - 1}MiB")


@pytest.mark.parametrize("memory", ["", "much", "-1GiB", "0", "1 XB", "nan", "1e3", True])
def test_what_is_no_amount_of_memory_is_refused(memory: str) -> None:
    with pytest.raises(OptionError, match="amount of memory"):
        small_vae(SMALL_TINY).decode(torch.zeros(1, 4, 2, 2), memory=memory)


def test_seamless_pictures_are_not_cut_up() -> None:
    vae = small_vae(replace(SMALL_KL, padding_mode="circular"))
    z = torch.randn(1, 4, 64, 64)
    vae.decode(z, memory="4GiB")
    with pytest.raises(OptionError, match="one piece only"):
        vae.decode(z, memory="60MiB")


def test_a_dtype_that_is_too_narrow_is_left_for_float32_in_the_middle() -> None:
    state = random_state(SMALL_KL)
    state["decoder.conv_out.weight"] = state["decoder.conv_out.weight"] * 1e5
    narrow, wide = (small_vae(SMALL_KL, dtype=dtype, state=state) for dtype in (torch.float16, torch.float32))
    z = torch.randn(1, 4, 64, 64, generator=torch.manual_seed(8))
    taken = narrow.decode(z, output="tensor", memory="80MiB")
    assert torch.equal(taken, wide.decode(z, output="tensor", memory="80MiB"))
    state["decoder.conv_in.weight"] = state["decoder.conv_in.weight"] * torch.inf
    with pytest.raises(NumericsError, match="broken"):
        small_vae(SMALL_KL, state=state).decode(z, memory="80MiB")


# Progress and interruption


def test_progress_goes_from_little_to_all() -> None:
    shares: list[float] = []
    small_vae(SMALL_KL).decode(torch.randn(2, 4, 64, 64), memory="70MiB", progress=lambda p: shares.append(p.share))
    assert len(shares) > 20 and shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[int] = []

    def stop(progress: Progress) -> None:
        seen.append(len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0)
        if progress.number > 8:
            raise KeyboardInterrupt

    vae, z = small_vae(SMALL_KL), torch.randn(1, 4, 64, 64)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(KeyboardInterrupt):
        vae.decode_to(z, tmp_path / "picture.png", memory="52MiB", progress=stop)
    assert not list(tmp_path.iterdir())
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before + 1

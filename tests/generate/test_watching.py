"""The preview and the trace: what they show, what they cost, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vaekit
from vaekit.errors import FamilyError, FileError, LatentsError, OptionError, OutputError
from vaekit.families import family
from vaekit.generate import trace as traces
from vaekit.generate.job import TraceWish, produce, targets
from vaekit.generate.painter import Painter
from vaekit.generate.preview import SHARE, Preview, to_file
from vaekit.generate.sampling import Step
from vaekit.generate.settings import Hires, Settings
from vaekit.generate.trace import Trace

PLAIN = Settings("a red apple", steps=4, seed=5)


def step(number: int = 1, count: int = 1) -> Step:
    tensor = torch.randn(count, 4, 4, 6, generator=torch.Generator().manual_seed(number))
    return Step(number, 9, tensor, tensor * 0.5, 1.0)


@pytest.mark.parametrize("tiny", [False, True])
def test_a_preview_changes_no_bit_of_the_picture(painter: Painter, tiny: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.generate.preview.SHARE", 1e9)
    shown: list[Image.Image] = []
    coder = vaekit.load("mini-tiny") if tiny else None
    preview = Preview(lambda picture, _: shown.append(picture), painter.vae.family, tiny=coder)
    watched = next(iter(painter.txt2img(PLAIN, watch=[preview])))
    plain = next(iter(painter.txt2img(PLAIN)))
    assert torch.equal(watched.latents.tensor, plain.latents.tensor)
    assert len(shown) == PLAIN.steps and shown[0].size == (32, 32)


@pytest.mark.parametrize("tiny", [False, True])
def test_the_last_preview_looks_like_the_picture(tiny: bool) -> None:
    """Of the bundled model: latents of random weights are none that a preview was made for."""
    painter, seen = Painter.open("mini-sd", dtype="float32", device="cpu"), list[Step]()
    drawn = next(iter(painter.txt2img(Settings("a red apple", steps=10, seed=5), watch=[seen.append])))
    preview = Preview(lambda *_: None, painter.vae.family, tiny=vaekit.load("mini-tiny") if tiny else None)
    small, whole = (
        np.asarray(picture.resize((8, 8)), np.float64).ravel()
        for picture in (preview.picture(seen[-1]), painter.vae.decode(drawn.latents))  # type: ignore[union-attr]
    )
    assert np.corrcoef(small, whole)[0, 1] > 0.95


def test_previews_of_a_batch_stand_side_by_side() -> None:
    assert Preview(lambda *_: None, family("mini")).picture(step(count=3)).size == (3 * 48, 32)


def test_previews_are_passed_over_where_they_would_cost_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def costly(*_: object) -> None:
        now[0] += 0.5

    preview = Preview(costly, family("mini"))
    for _ in range(100):
        now[0] += 1.0
        preview(step())
    assert preview.shown > 5 and preview.passed_over > 50
    assert preview.spent <= SHARE * now[0] + 0.5  # what the first takes is not known before
    cheap = Preview(lambda *_: None, family("mini"))
    for _ in range(10):
        now[0] += 1.0
        cheap(step())
    assert cheap.shown == 10


def test_even_the_first_picture_of_a_tiny_vae_keeps_to_the_share(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    tiny = vaekit.load("mini-tiny")
    decode = type(tiny).decode

    def slow(self: object, latents: object, **options: object) -> object:
        now[0] += 1.0
        return decode(self, latents, **options)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(type(tiny), "decode", slow)
    preview = Preview(lambda *_: None, family("mini"), tiny=tiny)
    costs = 24 / 256  # of a second, for 4×6 cells
    begun = now[0]
    for number in range(1, 10):
        now[0] = begun + number * costs
        preview(step(number))
    assert preview.shown == 0
    with caplog.at_level("INFO", logger="vaekit"):
        preview(Step(9, 9, step().latents, step().denoised, 0.1))
    assert "no preview: one takes 94 ms" in caplog.text
    now[0] += costs / SHARE
    preview(step(9))
    assert preview.shown == 1


def test_a_preview_in_a_file_is_replaced_and_a_wrong_ending_refused(tmp_path: Path) -> None:
    show = to_file(tmp_path / "p.png")
    for colour in ("red", "blue"):
        show(Image.new("RGB", (8, 8), colour), step())
        with Image.open(tmp_path / "p.png") as written:
            assert written.getpixel((0, 0)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    with pytest.raises(OutputError):
        to_file(tmp_path / "p.xyz")


def test_a_preview_that_cannot_be_written_does_not_stop_the_drawing(tmp_path: Path) -> None:
    show = to_file(tmp_path / "gone" / "p.png")
    (tmp_path / "gone").write_bytes(b"a file where a folder should be")
    show(Image.new("RGB", (8, 8)), step())


def test_a_vae_of_another_family_previews_nothing() -> None:
    with pytest.raises(OptionError, match="mini-b"):
        Preview(lambda *_: None, family("mini"), tiny=vaekit.load("mini-b"))
    with pytest.raises(OptionError, match="factors"):
        Preview(lambda *_: None, family("upscaler4x"))


# Trace


@pytest.fixture(scope="module")
def traced(painter: Painter, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    path = tmp_path_factory.mktemp("trace") / "t.safetensors"
    settings = replace(PLAIN, batch_size=2)
    wish = TraceWish(Trace(), path, painter)
    paths = targets(settings, path.parent, "x", force=False)
    list(produce(painter.txt2img(settings, watch=[wish.trace]), paths, trace=wish))
    final = torch.cat([one.latents.tensor for one in painter.txt2img(settings)])
    return path, final


def test_a_trace_holds_every_step_and_ends_at_the_picture(traced: tuple[Path, torch.Tensor]) -> None:
    path, final = traced
    loaded = traces.load(path)
    first = loaded.passes["first"]
    assert first.latents.shape == (5, 2, 4, 4, 4)
    assert torch.equal(first.latents[-1], final)
    assert (first.sigmas.diff() < 0).all() and first.sigmas[-1] == 0
    assert 0.6 < first.latents[0].std() < 1.4  # noise, as the UNet sees it
    assert loaded.vae == "mini"
    assert "Steps: 4" in loaded.text


def test_the_sheet_has_a_row_per_channel_and_two_decoded(traced: tuple[Path, torch.Tensor]) -> None:
    loaded = traces.load(traced[0])
    page = traces.sheet(loaded, vaekit.load("mini"))
    tile = 96 + traces.GAP
    assert page.height == 40 + 6 * tile
    assert page.width == traces.LABEL + 5 * tile
    assert traces.sheet(loaded).size == page.size  # linear
    assert np.abs(np.asarray(traces.sheet(loaded), int) - np.asarray(page, int)).max() > 50
    assert np.abs(np.asarray(traces.sheet(loaded, index=1), int) - np.asarray(traces.sheet(loaded), int)).max() > 50
    with pytest.raises(OptionError):
        traces.sheet(loaded, index=2)


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_the_animation_has_a_frame_per_step(traced: tuple[Path, torch.Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert traces.write_animation(traces.load(traced[0]), path) == 5
    with Image.open(path) as moving:
        assert moving.n_frames in (4, 5)  # Pillow keeps frames that are the same as one
        assert moving.size == (2 * 32 + traces.GAP, 32)


def test_the_animation_stays_on_its_last_frame(traced: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    traces.write_animation(traces.load(traced[0]), tmp_path / "a.gif", milliseconds=50)
    with Image.open(tmp_path / "a.gif") as moving:
        assert moving.info["duration"] == 50
        moving.seek(moving.n_frames - 1)
        assert moving.info["duration"] >= 500


def test_many_steps_are_thinned_and_both_ends_stay() -> None:
    assert traces.chosen_steps(5) == [0, 1, 2, 3, 4]
    many = traces.chosen_steps(100)
    assert len(many) == traces.COLUMNS and many[0] == 0 and many[-1] == 99


def test_both_passes_are_kept(painter: Painter, tmp_path: Path) -> None:
    settings = replace(PLAIN, hires=Hires(2.0, "latent", 0.5))
    wish = TraceWish(Trace(), tmp_path / "t.safetensors", painter)
    list(
        produce(
            painter.txt2img(settings, watch=[wish.trace]), targets(settings, tmp_path, "x", force=False), trace=wish
        )
    )
    loaded = traces.load(tmp_path / "t.safetensors")
    assert list(loaded.passes) == ["first", "hires"]
    assert loaded.passes["hires"].latents.shape[-2:] == (8, 8)
    assert traces.write_animation(loaded, tmp_path / "a.gif") == 4 + 3


def test_a_trace_of_another_family_than_the_vae_is_refused(traced: tuple[Path, torch.Tensor]) -> None:
    with pytest.raises(FamilyError):
        traces.sheet(traces.load(traced[0]), vaekit.load("mini-b"))


def test_what_is_no_trace_or_broken_is_refused(traced: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    tensors = load_file(traced[0])
    from safetensors import safe_open

    with safe_open(traced[0], framework="pt") as file:
        about = file.metadata()
    path = tmp_path / "t.safetensors"
    for change, told in (
        ({"format": "other"}, "no trace"),
        ({"version": "2"}, "another version"),
        ({"family_numbers": "{}"}, "family is broken"),
    ):
        save_file(tensors, path, about | change)
        with pytest.raises(LatentsError, match=told):
            traces.load(path)
    for change, told in (
        ({"first.sigmas": torch.zeros(2)}, "do not fit"),
        ({"first.denoised": torch.full_like(tensors["first.denoised"], float("nan"))}, "NaN"),
    ):
        save_file(tensors | change, path, about)
        with pytest.raises(LatentsError, match=told):
            traces.load(path)
    save_file({"first.sigmas": torch.zeros(2)}, path, about)
    with pytest.raises(LatentsError, match="without steps"):
        traces.load(path)
    with pytest.raises(FileError):
        traces.load(tmp_path / "missing.safetensors")


def test_where_the_vae_of_a_trace_is_gone_linear_previews_stand_in(traced: tuple[Path, torch.Tensor]) -> None:
    loaded = traces.load(traced[0])
    assert traces.vae_of(loaded, "linear") is None
    assert traces.vae_of(replace(loaded, vae="/nowhere.safetensors"), None) is None
    found = traces.vae_of(loaded, None)
    assert found is not None and found.name == "mini"

"""Latents are never lost: what happens when a decode or a write fails."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.engine.half import Half
from vaekit.engine.strips.budget import Budget
from vaekit.errors import NumericsError, OptionError, OutputError, ResourceError
from vaekit.generate.delivery import decode, deliver
from vaekit.generate.painter import Drawn, Painter
from vaekit.generate.settings import Change, Settings
from vaekit.latents import Latents
from vaekit.vae import VAE


@pytest.fixture(scope="module")
def drawn(painter: Painter) -> Drawn:
    return next(iter(painter.txt2img(Settings("a red apple", steps=2, seed=1))))


def failing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int, budgets: list[Any] | None = None
) -> list[torch.dtype]:
    """VAE.decode that fails so often; the dtypes in which it was tried. budgets: takes the memory it was allowed."""
    tried: list[torch.dtype] = []
    real = VAE.decode

    def decode(self: VAE, *args: Any, **kwargs: Any) -> Any:
        tried.append(self.placement.decode_dtype)
        if budgets is not None:
            budgets.append(kwargs["memory"])
        if len(tried) <= times:
            raise error
        return real(self, *args, **kwargs)

    monkeypatch.setattr(VAE, "decode", decode)
    return tried


@pytest.mark.parametrize(("asked", "inside"), [(None, 24 << 20), ("48MiB", 24 << 20), ("1TiB", 24 << 20)])
def test_a_decode_without_memory_is_tried_in_less_of_it_and_comes_out_the_same(
    drawn: Drawn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str | None,
    inside: int,
) -> None:
    whole = np.asarray(decode(drawn))
    monkeypatch.setattr("vaekit.engine.strips.budget.free_bytes", lambda device: 96 << 20)
    budgets: list[Any] = []
    tried = failing(monkeypatch, ResourceError("not enough memory"), times=1, budgets=budgets)
    again = np.asarray(decode(replace(drawn, memory=asked)))
    assert tried == [torch.float32, torch.float32] and budgets == [asked, inside]
    assert np.array_equal(whole, again)
    assert "not enough memory: decoded again inside 24 MiB of memory" in caplog.messages


def test_a_decode_without_memory_is_tried_in_bfloat16_after_that(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.asarray(decode(drawn), np.int16)
    tried = failing(monkeypatch, ResourceError("not enough memory"), times=2)
    again = np.asarray(decode(drawn), np.int16)
    assert tried == [torch.float32, torch.float32, torch.bfloat16]
    assert np.abs(whole - again).mean() < 2


def test_less_memory_that_nothing_can_be_done_in_is_passed_over(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vaekit.generate.delivery.settle", lambda memory, device: Budget(2000, False))
    tried = failing(monkeypatch, ResourceError("not enough memory"), times=1)
    decode(drawn)
    assert tried == [torch.float32, torch.float32, torch.bfloat16]
    assert "the least that does is" in caplog.text


def test_a_budget_that_is_too_small_is_no_failure_to_be_tried_otherwise(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"the least that does is .*; the latents are kept"):
        deliver(replace(drawn, memory="1KiB"), tmp_path / "picture.png")


def test_a_painter_encodes_and_decodes_inside_its_budget_and_tells_early_that_it_is_too_small(
    painter: Painter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings("a red apple", steps=1, seed=1, size=(96, 64))
    Image.new("RGB", (96, 64), "red").save(tmp_path / "red.png")
    change = Change(tmp_path / "red.png", 0.5)
    free = [*painter.txt2img(settings), *painter.img2img(change, settings)]
    bounded = Painter(painter.model, painter.vae, painter.resolution, encoding="18MiB", decoding="18MiB")
    strips: list[str] = []
    real = Half._run_strips
    monkeypatch.setattr(Half, "_run_strips", lambda self, *a: (strips.append(self.direction), real(self, *a))[1])
    tight = [*bounded.txt2img(settings), *bounded.img2img(change, settings)]
    assert strips == ["encode"]
    for a, b in zip(free, tight, strict=True):
        assert (a.latents.tensor - b.latents.tensor).abs().max() < 1e-3
        assert np.abs(np.asarray(decode(a), np.int16) - np.asarray(decode(b), np.int16)).max() <= 1
    assert strips == ["encode", "decode", "decode"]
    bounded.decoding = 1024
    monkeypatch.setattr(painter.model.unet, "forward", None)
    with pytest.raises(OptionError, match="the least that does is"):
        next(bounded.txt2img(settings))


def test_a_decode_in_half_precision_is_tried_wider(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    half = replace(drawn, vae=vaekit.load("mini", dtype="float16"))
    tried = failing(monkeypatch, NumericsError("NaN"), times=1)
    decode(half)
    assert tried == [torch.float16, torch.float32]


@pytest.mark.parametrize("error", [ResourceError("not enough memory"), NumericsError("NaN")])
def test_where_nothing_helps_the_latents_are_kept_and_named(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    failing(monkeypatch, error, times=9)
    with pytest.raises(type(error), match=r"kept in .*picture\.latents\.safetensors"):
        deliver(drawn, tmp_path / "picture.png")
    assert os.listdir(tmp_path) == ["picture.latents.safetensors"]
    monkeypatch.undo()
    kept = Latents.load(tmp_path / "picture.latents.safetensors")
    assert torch.equal(kept.tensor, drawn.latents.tensor)
    finished = vaekit.load("mini", dtype="float32").decode(kept)
    assert np.array_equal(np.asarray(finished), np.asarray(decode(drawn)))
    assert vaekit.load("mini-mse").decode(kept)


def test_kept_latents_do_not_overwrite_others(drawn: Drawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing(monkeypatch, NumericsError("NaN"), times=9)
    for _ in range(2):
        with pytest.raises(NumericsError):
            deliver(drawn, tmp_path / "picture.png")
    assert sorted(os.listdir(tmp_path)) == ["picture-2.latents.safetensors", "picture.latents.safetensors"]


def test_an_interrupt_while_decoding_keeps_the_latents(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(VAE, "decode", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        deliver(drawn, tmp_path / "picture.png")
    assert os.listdir(tmp_path) == ["picture.latents.safetensors"]


def test_a_full_disk_leaves_no_half_picture_and_keeps_the_latents_elsewhere(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full, other = tmp_path / "full", tmp_path / "other"
    full.mkdir()
    other.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(other))
    real = Path.replace

    def replace_(self: Path, target: Path) -> Path:
        if full in Path(target).parents:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace_)
    with pytest.raises(OutputError, match="No space left on device; nothing was written; the latents are kept in"):
        deliver(drawn, full / "picture.png")
    assert os.listdir(full) == []
    assert os.listdir(other) == ["picture.latents.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full") or os.geteuid() != 0, reason="needs a small disk of its own")
def test_a_really_full_disk(drawn: Drawn, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=4k tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "rest").write_bytes(bytes(4096))
        with pytest.raises(OutputError, match="No space left"):
            deliver(drawn, disk / "picture.png")
        assert os.listdir(disk) == ["rest"]
    finally:
        os.system(f"umount {disk}")
        shutil.rmtree(disk, ignore_errors=True)


def test_what_was_drawn_is_written_with_its_text(drawn: Drawn, tmp_path: Path) -> None:
    deliver(drawn, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as written:
        assert written.info["parameters"] == str(drawn.text)
    with pytest.raises(OutputError, match="exists"):
        deliver(drawn, tmp_path / "picture.png")

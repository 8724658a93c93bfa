"""From what a user names to what is wrong with it, and the command that tells it."""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.making import kl_state, save_safetensors
from checkpoints.whole import checkpoint
from conftest import SMALL_KL, random_state
from doctor.making import mini_state, save, save_vae, scene, with_blotch
from torch import Tensor

from vaekit import assets
from vaekit.checkpoints.read import Weights, read
from vaekit.cli import main
from vaekit.doctor import devices, examine_picture, examine_vae
from vaekit.doctor.devices import Trial, check_trials, decibels, try_devices
from vaekit.engine.half import Half
from vaekit.errors import PictureError

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path: Path, small_photos: list[Path]) -> Weights:
    return read(save_safetensors(random_state(SMALL_KL), tmp_path / "vae.safetensors"))


# VAEs


@pytest.mark.parametrize(
    ("name", "faults"), [("mini", []), ("mini-pale", ["pale"]), ("mini-spots", ["purple-blotches"])]
)
def test_the_bundled_vaes_have_the_fault_that_was_put_in_and_no_other(name: str, faults: list[str]) -> None:
    examination = examine_vae(assets.model_folder(name))
    assert [finding.fault for finding in examination.findings] == faults
    assert examination.healthy == (not faults)


def test_a_turned_pair_of_halves_is_not_the_picture(tmp_path: Path, small_photos: list[Path]) -> None:
    """mini's encoder and a decoder whose latents are all of the other sign."""
    state = mini_state()
    state["post_quant_conv.weight"] = -state["post_quant_conv.weight"]
    (finding,) = examine_vae(save_vae(state, tmp_path / "vae.safetensors")).findings
    assert (finding.fault, finding.sure) == ("not-the-picture", "certain")


def test_the_vae_in_a_checkpoint_is_examined_as_it_is_alone(tmp_path: Path, small_photos: list[Path]) -> None:
    state = mini_state()
    inside, alone = checkpoint(tmp_path / "model.safetensors", state), save_vae(state, tmp_path / "vae.safetensors")
    assert examine_vae(inside).measured == examine_vae(alone).measured


def test_nothing_runs_on_broken_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = mini_state()
    state["decoder.conv_in.bias"][3] = math.nan
    path = save_vae(state, tmp_path / "vae.safetensors")
    assert main(["--quiet", "doctor", str(path), "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert [(f["fault"], f["where"]) for f in told["findings"]] == [("broken-weights", "decoder.conv_in.bias")]
    assert told["measured"] == {}
    assert told["skipped"]


# Pictures through the command


def test_a_clean_picture_leaves_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(scene(), tmp_path / "clean.png")
    assert main(["doctor", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: nothing found\n"


def test_a_fault_is_told_with_its_box_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(with_blotch(scene(), 120, 90), tmp_path / "spotted.jpg")
    assert main(["doctor", str(path), "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    (finding,) = told["findings"]
    assert (finding["fault"], told["kind"], told["healthy"]) == ("purple-blotches", "picture", False)
    left, top, right, bottom = finding["box"]
    assert left < 120 < right
    assert top < 90 < bottom
    assert "ft-MSE" in finding["advice"]
    main(["doctor", str(path)])
    printed = capsys.readouterr().out
    assert f"{right - left}×{bottom - top} pixels at {left},{top}" in printed
    assert finding["advice"] in printed


def test_a_folder_is_gone_through_and_a_broken_file_in_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(scene(), tmp_path / "1.png")
    (tmp_path / "2.png").write_text("hello")
    save(np.zeros((64, 64, 3), np.float32), tmp_path / "3.png")
    (tmp_path / "notes.txt").write_text("not looked at")
    assert main(["--quiet", "doctor", str(tmp_path), "--json"]) == 2
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [(Path(one["source"]).name, one["healthy"]) for one in told] == [("1.png", True), ("3.png", False)]
    (line,) = filter(None, printed.err.splitlines())
    assert "2.png" in line


def test_a_batch_is_refused() -> None:
    with pytest.raises(PictureError, match="one by one"):
        examine_picture(torch.zeros(2, 3, 16, 16))


def claiming(width: int, height: int) -> bytes:
    """A PNG that tells these sides and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def make_bad_files(folder: Path) -> None:
    good = save(scene(64, 64), folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_text("hello")
    (folder / "empty.png").touch()
    (folder / "empty.safetensors").touch()
    (folder / "huge.png").write_bytes(claiming(1_000_000, 1_000_000))
    whole = save_safetensors(kl_state(), folder / "cut.safetensors")
    whole.write_bytes(whole.read_bytes()[:-1000])
    save_safetensors({"lora_unet.alpha": torch.ones(1)}, folder / "lora.safetensors")
    (folder / "hostile.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueq\x00\x85R.")
    (folder / "noise").write_bytes(bytes(range(200)))
    (folder / "nothing").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")


BAD = {
    "nothing": [],
    "a missing file": ["no-such.png"],
    "a misspelt bundled VAE": ["minni"],
    "a glob of nothing": ["*.webp"],
    "an empty folder": ["nothing"],
    "a cut picture": ["cut.png"],
    "text as picture": ["text.png"],
    "an empty picture": ["empty.png"],
    "a picture that claims to be huge": ["huge.png"],
    "a picture over the limit": ["good.png", "--max-pixels", "100"],
    "a limit of nothing": ["good.png", "--max-pixels", "0"],
    "an empty checkpoint": ["empty.safetensors"],
    "a checkpoint still being downloaded": ["cut.safetensors"],
    "another kind of model": ["lora.safetensors"],
    "a pickle that runs code": ["hostile.pt"],
    "bytes of no kind": ["noise"],
    "a link to itself": ["loop.png"],
    "a link to itself without ending": ["loop"],
    "a pipe": ["pipe"],
    "a null byte": ["a\0b.png"],
    "a name without end": ["n" * 5000],
    "a limit for devices": ["mini", "--device", "--max-pixels", "100"],
    "a picture's device": ["good.png", "--device"],
    "a decoder for a picture": ["good.png", "--decoder", "cut.safetensors"],
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gives_one_line_and_code_2_and_changes_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bad_files(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert main(["--quiet", "doctor", *BAD[what]]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("vaekit: ")
    assert len(line) < 500
    assert printed.out.strip() == ""
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["good.png", "cut.safetensors", "nothing"])
def test_what_may_not_be_read_gives_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bad_files(tmp_path)
    (tmp_path / name).chmod(0)
    assert main(["--quiet", "doctor", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ermission" in line


# Devices


def test_the_cpu_in_float32_is_itself_and_half_precision_is_off_by_its_rounding(weights: Weights) -> None:
    trials = {(trial.dtype, trial.direction): trial for trial in try_devices(weights, [CPU])}
    assert len(trials) == 6
    for direction in ("encode", "decode"):
        assert trials["float32", direction].decibels == math.inf
        exact, coarse = (trials[dtype, direction].decibels for dtype in ("float16", "bfloat16"))
        assert exact is not None and coarse is not None
        assert exact > coarse + 10  # three bits of mantissa more are 18 dB
    assert check_trials([*trials.values()]) == []


def test_a_backend_that_is_wrong_in_silence_is_told(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[[Half, Tensor], Tensor] = Half.decode

    def wrong(half: Half, latents: Tensor) -> Tensor:
        return right(half, latents) - (0.5 if half.dtype == torch.bfloat16 else 0)  # about 12 dB

    monkeypatch.setattr(Half, "decode", wrong)
    findings = check_trials([*try_devices(weights, [CPU])])
    assert [(finding.fault, finding.sure) for finding in findings] == [("wrong-on-device", "certain")]
    assert "to decode in bfloat16 on cpu" in findings[0].what


def test_a_device_that_overflows_alone_is_told_and_one_that_does_as_the_cpu_does_is_not() -> None:
    own = Trial("cpu", "float16", "decode", None, overflowed=True)
    same, alone = (Trial("cuda:0", dtype, "decode", None, overflowed=True) for dtype in ("float16", "bfloat16"))
    (finding,) = check_trials([own, same, alone])
    assert "bfloat16 on cuda:0 gives NaN" in finding.what


def test_decibels_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (1, 3, 8, 8)) for _ in range(2))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert decibels(x, y, "decode") == pytest.approx(20 * np.log10(2 / np.sqrt(np.mean((a - b) ** 2))))
    assert decibels(x, y, "encode") == pytest.approx(10 * np.log10(a.var() / np.mean((a - b) ** 2)), abs=0.05)
    assert decibels(x, x, "decode") == math.inf


def test_the_command_prints_every_trial(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "devices", lambda: [CPU])
    assert main(["--quiet", "doctor", "--device", str(tmp_path / "vae.safetensors"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert len(told["measured"]["trials"]) == 6
    assert main(["--quiet", "doctor", "--device", str(tmp_path / "vae.safetensors")]) == 0
    assert capsys.readouterr().out.count("cpu ") == 6

"""The benchmark measures every peer, and notices one that computes something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vaekit import assets, folders
from vaekit.bench import Settings, measuring, peers, run, timing
from vaekit.bench.peers import Peer, Runs
from vaekit.bench.subject import Subject, subject
from vaekit.bench.timing import alternate, peak_bytes
from vaekit.cli import main
from vaekit.engine.fast import openvino
from vaekit.errors import OptionError, OutputError, ResourceError

SMALL = Settings(vae="mini-tiny", directions=("decode",), device="cpu", sides=(64,), rounds=2, memory=False, quick=True)
needs_openvino = pytest.mark.skipif(not openvino.available(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices take longer than all else."""
    monkeypatch.setattr("vaekit.bench.measuring.matrix_rate", lambda dtype, device: 1e12)


def test_every_peer_is_timed_and_agrees(tmp_path: Path) -> None:
    from vaekit.bench.measuring import write

    result = run(SMALL)
    names = [row.name for row in result.rows]
    assert names[0] == "vaekit" and "diffusers float32" in names
    assert result.disagreeing == []
    base = next(row for row in result.rows if row.name == "diffusers float32")
    assert base.times_base == 1.0
    assert all(row.median > 0 and row.of_matrix_rate > 0 for row in result.rows)
    json_file, table, picture = write(result, tmp_path / "bench", force=False)
    assert [row["name"] for row in json.loads(json_file.read_text("utf-8"))["rows"]] == names
    assert all(name in table.read_text("utf-8") for name in names)
    assert picture.read_text("utf-8").startswith("<svg")
    with pytest.raises(OutputError):
        write(result, tmp_path / "bench", force=False)


@needs_openvino
def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    code = (
        "import torch; from vaekit.bench import peers; from vaekit.bench.subject import subject\n"
        "one = subject('mini-tiny', '', 'decode')\n"
        "for runs in (peers.runs(peers.half(one, peers.CPU, 'openvino')), peers._openvino(one, torch.float32)):\n"
        "    runs(one.example(64, 1))"
    )
    in_ci = ("CI", "TF_BUILD", "JENKINS_URL")  # where it keeps silent anyway
    kept = {name: value for name, value in os.environ.items() if name not in in_ci}
    subprocess.run([sys.executable, "-c", code], check=True, env=kept | {"HOME": str(tmp_path)})
    assert not (tmp_path / "intel").exists()


@needs_openvino
@pytest.mark.parametrize("vae", [None, "mini-tiny"])
def test_int8_is_a_peer_of_random_weights_and_of_a_real_vae(
    vae: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "cache", lambda: tmp_path)
    photos = assets.sample_photos()[:1]
    monkeypatch.setattr(assets, "sample_photos", lambda: photos)
    monkeypatch.setattr(peers, "_on_cpu", lambda: ([], []))
    result = run(replace(SMALL, vae=vae, kind="tiny", quick=False, rounds=1))
    keeps = {row.name: row.decibels for row in result.rows}
    assert measuring.AGREES <= keeps[peers.INT8] < 70 < keeps["vaekit, reference"]
    assert result.disagreeing == [] and not any(peers.INT8 in told for told in result.missing)


def test_int8_is_held_to_what_it_keeps() -> None:
    def disagreeing(vae: str | None, decibels: float) -> list[str]:
        row = measuring.Row("decode", 64, 1, peers.INT8, 1.0, 0.0, 1.0, None, decibels, 1.0, None)
        return measuring.Result(replace(SMALL, vae=vae), "", {}, [row]).disagreeing

    assert disagreeing("mini", 39.9) and disagreeing(None, 29.9) and disagreeing(None, float("nan"))
    assert not disagreeing("mini", 40.1) and not disagreeing(None, 30.1)


@pytest.mark.parametrize(("has_bfloat16", "compiler"), [(False, None), (True, "/usr/bin/c++")])
def test_peers_of_a_cpu_are_those_that_it_can_run(
    has_bfloat16: bool, compiler: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "computes_in_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(peers.shutil, "which", lambda name: compiler)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name != "onnx" or None)
    found, missing = peers._on_cpu()
    names = {peer.name: peer.half for peer in found}
    assert f"OpenVINO {'bfloat16' if has_bfloat16 else 'float32'}, diffusers' graph" in names
    compiled = {name: half for name, half in names.items() if "compiled" in name}
    if compiler:
        assert compiled == {"diffusers float32 compiled": False, "diffusers bfloat16 compiled": True}
    else:
        assert not compiled and "diffusers compiled: no C++ compiler" in missing
    assert "onnxruntime float32: onnxruntime and onnx not installed" in missing


def test_why_int8_is_not_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "available", lambda: False)
    told = run(replace(SMALL, vae=None, kind="tiny", rounds=1)).missing
    assert any(one.startswith(f"{peers.INT8}: OpenVINO is not installed") for one in told)
    assert any(one.startswith(f"{peers.INT8}: calibrating") for one in run(replace(SMALL, rounds=1)).missing)


def test_growth_is_measured_drawn_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "GROWTH_SIDES", (64, 128, 256))
    monkeypatch.setattr(measuring, "GROWTH_BATCHES", (1, 2))
    monkeypatch.setattr(measuring, "peak_bytes", lambda chosen, name, side, batch: 10**6 * side * batch)
    told: list[str] = []
    result = run(replace(SMALL, growth=True, memory=True), told.append)
    assert [(one.side, one.batch) for one in result.growth] == [(64, 1), (128, 1), (256, 1), (64, 2)]
    assert all(
        one.per_megapixel == pytest.approx(one.seconds * 1e6 / (one.batch * one.side**2)) for one in result.growth
    )
    assert [one.peak_bytes_per_megapixel for one in result.growth] == pytest.approx(
        [1e12 / side for side in (64, 128, 256, 64)]
    )
    assert "growth: decode 1 of 256×256" in "\n".join(told)
    _, table, picture = measuring.write(result, tmp_path, force=False)
    assert "| decode 2 of 64×64 |" in table.read_text("utf-8")
    drawn = picture.read_text("utf-8")
    assert drawn.count("<polyline") == 4 and drawn.count("MiB per megapixel") == 4


def test_what_would_not_fit_into_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "GROWTH_SIDES", (64, 1024))
    monkeypatch.setattr(measuring, "GROWTH_BATCHES", (1,))
    monkeypatch.setattr(measuring, "free_bytes", lambda device: 200 * 2**20)
    result = run(replace(SMALL, growth=True))
    assert [one.side for one in result.growth] == [64]
    assert [str(one) for one in result.out_of_memory] == ["decode 1 of 1024×1024: vaekit"]
    assert "<polyline" not in measuring.plot([], result.growth)  # one point makes no line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")
def test_peaks_of_memory_are_those_of_processes_that_load_a_file() -> None:
    peak = peak_bytes(subject(None, "tiny", "decode"), "vaekit", 64, 1)
    assert peak is not None and 50 * 2**20 < peak < 4 * 2**30


def test_a_peer_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = peers.installed

    def with_a_wrong_one(subject, device, *, quick):  # type: ignore[no-untyped-def]
        found, missing = known(subject, device, quick=quick)
        right = found[0].make(subject)
        return [*found, Peer("wrong", lambda _: lambda x: right(x) + torch.linspace(0, 1, 64))], missing

    monkeypatch.setattr("vaekit.bench.measuring.installed", with_a_wrong_one)
    assert run(SMALL).disagreeing == ["wrong (decode 1 of 64×64)"]


@pytest.mark.parametrize(
    "changed", [{"sides": (64, 100)}, {"batches": (0,)}, {"rounds": 0}, {"vae": None, "kind": "huge"}]
)
def test_what_cannot_be_measured_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        run(Settings(**{**vars(SMALL), **changed}))  # type: ignore[arg-type]


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, *more: Peer) -> None:
    """The peers of a GPU, on the CPU."""

    def those_of_a_gpu(subject, device, *, quick):  # type: ignore[no-untyped-def]
        found, missing = peers._on_gpu(device)
        return [known(subject, device, quick=True)[0][0], *found[:3], *more], missing

    known = peers.installed
    monkeypatch.setattr("vaekit.bench.measuring.installed", those_of_a_gpu)


def test_every_size_is_measured_with_every_batch_and_out_of_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(x: Tensor) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros(len(x), 3, 8 * x.shape[2], 8 * x.shape[3])

    def makes_nothing(_: Subject) -> Runs:
        raise ResourceError("not enough memory")

    as_on_a_gpu(monkeypatch, Peer("greedy", lambda _: greedy), Peer("never", makes_nothing))
    result = run(replace(SMALL, sides=(64, 128), batches=(1, 2), rounds=1))
    sizes = [(64, 1), (64, 2), (128, 1), (128, 2)]
    told = [str(one) for one in result.out_of_memory]
    assert told == [
        f"decode {batch} of {side}×{side}: {name}"
        for side, batch in sizes
        for name in (["greedy", "never"] if batch > 1 else ["never"])
    ]
    rows = {(row.side, row.batch, row.name) for row in result.rows}
    assert {(*size, f"diffusers {name}") for size in sizes for name in ("float32", "bfloat16")} <= rows
    assert result.disagreeing == ["greedy (decode 1 of 64×64)", "greedy (decode 1 of 128×128)"]
    text = measuring.table(result)
    assert "out of memory: decode 2 of 128×128: greedy" in text and "decode 2 of 64×64: vaekit" in text


def test_a_peer_that_runs_out_of_memory_later_is_left_out_from_then_on() -> None:
    runs = iter([torch.ones(1)])

    def once(x: Tensor) -> Tensor:
        for one in runs:
            return one
        raise torch.OutOfMemoryError("CUDA out of memory.")

    found, out = alternate({"once": lambda: once, "always": lambda: torch.neg}, torch.ones(3), 2, lambda _: None)
    assert list(found) == ["always"] and out == ["once"]
    assert len(found["always"].times.seconds) == 2 and torch.equal(found["always"].output, torch.tensor([-1.0, -1.0]))


def test_the_rate_of_products_is_operations_by_time() -> None:
    assert 1e6 < timing.matrix_rate(torch.float32, torch.device("cpu"), 128) < 1e15


def test_growth_on_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--side"):
        measuring._settled(replace(SMALL, growth=True), torch.device("cuda"))
    usual = measuring._settled(replace(SMALL, sides=(), batches=()), torch.device("cuda"))
    assert usual.sides == (512, 1024, 2048) and usual.batches == (1, 4, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_and_its_memory_counted() -> None:
    result = run(replace(SMALL, device="cuda", batches=(1, 2)))
    assert result.disagreeing == [] and all(row.peak_bytes for row in result.rows)
    assert {row.batch for row in result.rows} == {1, 2} and "GPU" in result.machine


def test_growth_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    grown = measuring.Growth("decode", 64, 1, 0.25, 61.0, None)
    found = measuring.Result(SMALL, "", {}, growth=[grown])
    monkeypatch.setattr("vaekit.bench.run", lambda settings, told: found)
    assert main(["bench", "--growth"]) == 0
    assert "decode 1 of 64×64" in capsys.readouterr().out

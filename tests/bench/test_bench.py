"""The benchmark measures every peer, and notices one that computes something else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from vaekit.bench import Settings, peers, run
from vaekit.bench.peers import Peer
from vaekit.bench.subject import subject
from vaekit.bench.timing import peak_bytes
from vaekit.errors import OptionError, OutputError

SMALL = Settings(vae="mini-tiny", directions=("decode",), side=64, rounds=2, memory=False, quick=True)


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")
def test_peaks_of_memory_are_those_of_processes_that_load_a_file() -> None:
    peak = peak_bytes(subject(None, "tiny", "decode"), "vaekit", 64, 1)
    assert peak is not None and 50 * 2**20 < peak < 4 * 2**30


def test_a_peer_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = peers.installed

    def with_a_wrong_one(subject, *, quick):  # type: ignore[no-untyped-def]
        found, missing = known(subject, quick=quick)
        right = found[0].make(subject)
        return [*found, Peer("wrong", lambda _: lambda x: right(x) + torch.linspace(0, 1, 64))], missing

    monkeypatch.setattr("vaekit.bench.measuring.installed", with_a_wrong_one)
    assert run(SMALL).disagreeing == ["wrong (decode)"]


@pytest.mark.parametrize("changed", [{"side": 100}, {"rounds": 0}, {"vae": None, "kind": "huge"}])
def test_what_cannot_be_measured_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        run(Settings(**{**vars(SMALL), **changed}))  # type: ignore[arg-type]

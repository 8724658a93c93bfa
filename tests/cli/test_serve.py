"""vaekit serve: what it refuses before it listens, and that it serves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from vaekit.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen"], "--api-auth or --ui-auth USER:PASSWORD"),
        (["--listen", "--api-auth", "me:"], "USER:PASSWORD"),
        (["--host", "0.0.0.0"], "--listen"),
        (["--no-auth"], "belongs to --listen"),
        (["--listen", "--no-auth", "--ui-auth", "me:x"], "--no-auth lets everybody in"),
        (["--allow-origin", "https://site/path"], "without a path"),
        (["--import-a1111", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_would_be_unsafe_or_wrong_is_refused(
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["serve", *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err


def test_a_config_of_a1111_is_taken_over_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    config = {"sd_vae": "gone.safetensors", "sd_vae_checkpoint_cache": 2, "auto_vae_precision": False, "outdir": "/x"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("uvicorn.Server.run", lambda self: None)
    assert main(["serve", "--import-a1111", str(tmp_path / "config.json"), "--output", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "taken over: sd_vae_checkpoint_cache" in err
    assert "not taken over: sd_vae: " in err and "not taken over: auto_vae_precision: " in err
    assert "nothing for 1 others: outdir" in err


def test_without_the_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "pip install 'vaekit[web]'" in capsys.readouterr().err


def test_it_serves_the_page_and_leaves_on_ctrl_c(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    homes = {name: str(tmp_path) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "HOME")}
    command = [sys.executable, "-m", "vaekit", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | homes, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            text = _fetched(f"http://127.0.0.1:{port}/", server)
            assert "<title>vaekit</title>" in text
            assert main(["serve", "--port", str(port)]) == 2
        finally:
            server.send_signal(signal.SIGINT)
            _, err = server.communicate(timeout=60)
    assert f"http://127.0.0.1:{port}" in err and "Traceback" not in err


def _fetched(url: str, server: subprocess.Popen[str]) -> str:
    for _ in range(300):
        assert server.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.2)
    raise AssertionError("it did not begin to serve")

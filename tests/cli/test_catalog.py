"""vae list, vae show, which and prefer as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from catalog.shelves import LIKE_SD1, OF_SDXL, SD1, SDXL_WITHOUT, baked, empty_home, put
from checkpoints.making import save_safetensors, save_torch
from conftest import SMALL_KL, random_state

from vaekit.cli import main

STATE = random_state(SMALL_KL)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def models(home: Path) -> Path:
    folder = home / "stable-diffusion-webui" / "models"
    save_safetensors(STATE, folder / "VAE" / "best.safetensors")
    save_torch(STATE, folder / "VAE" / "copy.vae.pt")
    put(SD1, folder / "Stable-diffusion" / "dream.safetensors")
    put(SDXL_WITHOUT, folder / "Stable-diffusion" / "xl.safetensors")
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    told = capsys.readouterr()
    return told.out if code == 0 else told.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(said(capsys, *arguments, "--json"))


def test_list_shows_vaes_checkpoints_and_what_is_broken(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "VAE" / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    text = said(capsys, "vae", "list")
    for word in ("mini", "best.safetensors", "copy.vae.pt", "dream.safetensors", "sdxl", "A1111"):
        assert word in text
    assert f"broken: {models / 'VAE' / 'cut.safetensors'}: truncated" in text
    assert "--fingerprints" in text


def test_list_groups_copies_once_they_were_read(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "Stable-diffusion" / "dream.safetensors").unlink()
    save_safetensors(baked(STATE), models / "Stable-diffusion" / "small.safetensors")
    assert "= copy.vae.pt" not in said(capsys, "vae", "list")
    text = said(capsys, "vae", "list", "--fingerprints")
    assert "= copy.vae.pt" in text
    assert "= best.safetensors" in text  # the one baked into the checkpoint
    assert "--fingerprints" not in text
    assert "= copy.vae.pt" in said(capsys, "vae", "list")


def test_list_as_json_tells_everything(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "Stable-diffusion" / "dream.safetensors").unlink()  # long, and all of it would be read
    as_json(capsys, "vae", "list", "--fingerprints")
    put(SD1, models / "Stable-diffusion" / "dream.safetensors")
    assert {entry["name"] for entry in as_json(capsys, "vae", "list", "--family", "sdxl")["entries"]} == {
        "xl.safetensors"
    }
    entries = {e["name"]: e for e in as_json(capsys, "vae", "list")["entries"]}
    best = entries["best.safetensors"]
    assert best["copies"] == [str(models / "VAE" / "copy.vae.pt")]
    assert (best["kind"], best["role"], best["dtypes"], best["encoder"]) == ("vae", "vae", ["F32"], True)
    assert len(best["fingerprint"]) == len(best["sha256"]) == 64
    assert (entries["dream.safetensors"]["kind"], entries["dream.safetensors"]["families"]) == ("checkpoint", ["sd1"])
    assert entries["xl.safetensors"]["encoder"] is False


def test_list_hides_other_files_and_says_so(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    save_safetensors({"lora_unet_a.lora_down.weight": torch.zeros(1)}, models / "VAE" / "style.safetensors")
    text = said(capsys, "vae", "list")
    assert "style" not in text
    assert "1 more hold something else" in text
    text = said(capsys, "vae", "list", "--all")
    assert "a LoRA" in text
    assert "more hold" not in text


def test_list_looks_where_it_is_told(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(LIKE_SD1, tmp_path / "one" / "first.safetensors")
    put(OF_SDXL, tmp_path / "two" / "second")
    names = ["vae", "list", "--models", str(tmp_path / "one"), "--models", str(tmp_path / "two")]
    entries = {e["name"]: e["families"] for e in as_json(capsys, *names)["entries"]}
    assert entries["first.safetensors"] == ["sd1", "sdxl", "playground25"]
    assert entries["second"] == ["sdxl"]
    assert "first" not in said(capsys, "vae", "list")


def test_the_catalog_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sdxl-vae-fp16-fix" in said(capsys, "vae", "list", "--catalog")
    entries = as_json(capsys, "vae", "list", "--catalog", "--family", "flux2")
    assert [entry["name"] for entry in entries] == ["flux2-vae", "taef2"]


def test_show_tells_what_is_known(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "vae", "show", "ft-mse")
    for word in ("Stability AI", "MIT", "735e4c3a447a3255", "hf:stabilityai/sd-vae-ft-mse-original/", "Smoother"):
        assert word in text
    text = said(capsys, "vae", "show", "mini")
    assert "ships with vaekit" in text
    assert "encoder and decoder" in text
    assert str(models / "VAE" / "best.safetensors") in said(capsys, "vae", "show", "best")
    shown = as_json(capsys, "vae", "show", str(models / "VAE" / "best.safetensors"))
    assert (shown["catalog"], shown["entries"][0]["name"]) == (None, "best.safetensors")


def test_which_tells_the_answer_and_the_reason(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "which", "dream")
    assert "why          baked: " in text
    assert [line.split(":")[0].split()[-1] for line in text.splitlines()[-3:]] == ["asked", "preference", "beside"]
    text = said(capsys, "which", "xl", "--vae", "None")
    assert "sdxl-vae" in text
    assert "would be downloaded" in text
    record = as_json(capsys, "which", "dream.safetensors", "--vae", str(models / "VAE" / "best.safetensors"))
    assert (record["source"], record["path"]) == ("asked", str(models / "VAE" / "best.safetensors"))


def test_prefer_stores_lists_and_forgets(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "preference" in said(capsys, "prefer", "dream", "best")
    assert as_json(capsys, "which", "dream")["source"] == "preference"
    assert as_json(capsys, "prefer", "dream")["name"] == "best.safetensors"
    assert as_json(capsys, "prefer") == {str(models / "Stable-diffusion" / "dream.safetensors"): "best"}
    assert "dream.safetensors" in said(capsys, "prefer")
    assert as_json(capsys, "prefer", "dream", "Automatic")["source"] == "baked"
    assert as_json(capsys, "prefer") == {}


def test_odd_names_are_printed_as_they_are_and_no_terminal_takes_orders(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("[bold]x", "\x1b[31mred", "caf\udce9", "two\nlines"):
        save_safetensors(STATE, models / "VAE" / f"{name}.safetensors")
    text = said(capsys, "vae", "list")
    assert "[bold]x.safetensors" in text
    assert "\x1b" not in text
    assert "\ufffd[31mred.safetensors" in text
    assert "two\ufffdlines.safetensors" in text
    text.encode()
    said(capsys, "vae", "list", "--json").encode()
    assert "[bold]x" in said(capsys, "prefer", "dream", "[bold]x")
    assert "[bold]x" in said(capsys, "prefer")


BAD = {
    "no such VAE": (["which", "dream", "--vae", "bets"], "did you mean best"),
    "no such checkpoint": (["which", "drean"], "did you mean dream"),
    "a VAE of another family": (["which", "dream", "--vae", "mini"], "is a VAE of mini"),
    "a path out of the folder": (["which", "dream", "--vae", "../../etc/passwd"], "no such file"),
    "a preference for nothing": (["prefer", "dream", "bets"], "did you mean best"),
    "nothing to show": (["vae", "show", "bets"], "did you mean best"),
    "no such folder": (["vae", "list", "--models", "/no/such"], "no such folder"),
    "no such family": (["vae", "list", "--family", "sd11"], "did you mean sd1"),
    "a broken catalog": (["vae", "list"], "own.toml:2: not valid TOML"),
    "a null byte": (["which", "a\0b"], "no checkpoint is called"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gives_one_line_and_code_2(
    what: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, word = BAD[what]
    if "catalog" in what:
        (tmp_path / "own.toml").write_text("[x]\ntitle\n")
        monkeypatch.setenv("VAEKIT_CATALOG", str(tmp_path / "own.toml"))
    lines = said(capsys, *arguments, code=2).splitlines()
    assert len(lines) == 1, lines
    assert word in lines[0]
    assert "Traceback" not in lines[0]


def test_listing_and_choosing_among_safetensors_import_no_torch(models: Path) -> None:
    (models / "VAE" / "copy.vae.pt").unlink()
    code = (
        "import sys; from vaekit.cli import main; main(['vae', 'list']); main(['which', 'dream']); "
        "main(['which', 'dream', '--vae', 'ft-mse']); print('TORCH', 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.endswith("TORCH False\n"), run.stderr

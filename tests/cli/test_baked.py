"""extract, convert, bake and diff as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints.making import save_safetensors, save_torch, tiny_state
from checkpoints.whole import checkpoint
from safetensors.torch import load_file

from vaekit import assets
from vaekit.checkpoints.read import read
from vaekit.cli import main
from vaekit.families import family


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with a VAE of mini's kind in it, a little off."""
    monkeypatch.chdir(tmp_path)
    mini = {name: tensor * 1.01 for name, tensor in read(assets.model_folder("mini")).state.items()}
    return checkpoint(tmp_path / "model.safetensors", mini)


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_extract_names_the_file_as_programs_look_for_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "model.safetensors", "--family", "mini"]) == 0
    printed = capsys.readouterr()
    assert "model.vae.safetensors" in printed.out
    assert "188 tensors, 897 others left, ldm layout, F16, family mini" in printed.out
    assert len(load_file("model.vae.safetensors")) == 188


def test_extract_layout_dtype_and_family_act_and_are_reported(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layout", "diffusers", "--dtype", "bfloat16", "--family", "mini", "--json"]
    assert main(["extract", "model.safetensors", "-o", "vae", *options]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["path"], row["layout"], row["dtypes"], row["family"]) == ("vae", "diffusers", {"BF16": 188}, "mini")
    assert row["rounded"] > 100
    assert json.loads(Path("vae/config.json").read_text())["scaling_factor"] == family("mini").scaling_factor


def test_convert_there_and_back_gives_the_same_file(model: Path) -> None:
    main(["convert", "mini", "--layout", "ldm", "-o", "a.safetensors"])
    assert main(["convert", "a.safetensors", "--layout", "diffusers", "-o", "folder"]) == 0
    assert main(["convert", "folder", "--layout", "ldm", "-o", "b.safetensors"]) == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_bake_then_diff_tells_what_changed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bake", "model.safetensors", "--vae", "mini", "-o", "out.safetensors"]) == 0
    assert "897 tensors kept bit for bit, 188 replaced by 188 of the VAE, F16" in capsys.readouterr().out
    assert main(["diff", "mini", "out.safetensors"]) == 0
    assert capsys.readouterr().out == "encoder: the same\ndecoder: the same\n"
    assert main(["diff", "model.safetensors", "out.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "decoder.conv_out.weight" in text
    assert "encoder: of 78 tensors 78 differ; " in text
    assert main(["diff", "model.safetensors", "out.safetensors", "--all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    different = [tensor["name"] for tensor in found["tensors"] if tensor["status"] != "same"]
    assert len(found["tensors"]) == 1085
    assert len(different) == 188
    assert all(name.startswith("first_stage_model.") for name in different)


def test_bake_reports_as_json_and_its_options_act(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_torch({"state_dict": load_file(model)}, Path("model.ckpt"))
    main(["convert", "mini", "--layout", "diffusers", "-o", "odd"])
    config = json.loads(Path("odd/config.json").read_text())
    Path("odd/config.json").write_text(json.dumps(config | {"scaling_factor": 0.2}))
    arguments = ["--quiet", "bake", "model.ckpt", "--vae", "odd", "-o", "out.safetensors"]
    capsys.readouterr()
    assert main(arguments) == 2
    assert "--any-family" in one_line(capsys.readouterr().err)
    assert main([*arguments, "--any-family", "--dtype", "float32", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["kept"], row["written"], row["dtypes"], row["rounded"]) == (897, 188, {"F32": 188}, 0)
    assert main(arguments) == 2
    assert "--force" in one_line(capsys.readouterr().err)
    assert main([*arguments, "--any-family", "--force"]) == 0


BAD = {
    "a missing checkpoint": ["extract", "no-such.safetensors"],
    "a misspelt bundled VAE": ["extract", "minni"],
    "text as checkpoint": ["extract", "text.txt"],
    "a truncated checkpoint": ["extract", "cut.safetensors"],
    "an existing output": ["extract", "model.safetensors", "-o", "text.txt"],
    "a pickle's name": ["extract", "model.safetensors", "-o", "vae.pt"],
    "a folder without diffusers' layout": ["extract", "model.safetensors", "-o", "folder"],
    "an output in a file": ["extract", "model.safetensors", "-o", "text.txt/vae.safetensors"],
    "a null byte": ["extract", "model.safetensors", "-o", "a\0.safetensors"],
    "a name without end": ["extract", "model.safetensors", "-o", "x" * 300 + ".safetensors"],
    "an unknown layout": ["extract", "model.safetensors", "--layout", "comfy"],
    "another kind's layout": ["extract", "model.safetensors", "--layout", "taesd"],
    "an unknown dtype": ["extract", "model.safetensors", "--dtype", "int8"],
    "an unknown family": ["extract", "model.safetensors", "--family", "sd9"],
    "a family that cannot be": ["extract", "model.safetensors", "--family", "sd1"],
    "a weight beyond float16": ["convert", "large.safetensors", "-o", "x.safetensors", "--dtype", "float16"],
    "a checkpoint to convert": ["convert", "model.safetensors", "-o", "x.safetensors"],
    "no output": ["convert", "mini"],
    "no VAE to bake": ["bake", "model.safetensors", "-o", "x.safetensors"],
    "a VAE to bake into": ["bake", "mini", "--vae", "mini", "-o", "x.safetensors"],
    "a tiny VAE to bake": ["bake", "model.safetensors", "--vae", "tiny.safetensors", "-o", "x.safetensors"],
    "a pickle to write": ["bake", "model.safetensors", "--vae", "mini", "-o", "x.ckpt"],
    "the checkpoint itself": ["bake", "model.safetensors", "--vae", "mini", "-o", "model.safetensors"],
    "one file to compare": ["diff", "mini"],
    "text to compare": ["diff", "mini", "text.txt"],
    "text to compare whole": ["diff", "model.safetensors", "text.txt", "--all"],
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gives_one_line_and_code_2_and_changes_nothing(
    what: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").write_text("hello")
    save_safetensors(tiny_state(), Path("tiny.safetensors"))
    large = dict(read(assets.model_folder("mini")).state)
    large["decoder.conv_out.bias"] = torch.tensor([1e6, 0, 0])
    save_safetensors(large, Path("large.safetensors"))
    checkpoint(Path("cut.safetensors"), {})
    os.truncate("cut.safetensors", 100_000)
    before = {path: path.stat().st_mtime_ns for path in model.parent.rglob("*")}
    assert main(["--quiet", *BAD[what]]) == 2
    printed = capsys.readouterr()
    assert one_line(printed.err).startswith("vaekit: ")
    assert printed.out == ""
    assert {path: path.stat().st_mtime_ns for path in model.parent.rglob("*")} == before


def test_an_interruption_leaves_the_old_file(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    Path("out.safetensors").write_text("precious")
    before = sorted(model.parent.iterdir())
    monkeypatch.setattr("os.fsync", interrupted)
    assert main(["--quiet", "bake", "model.safetensors", "--vae", "mini", "-o", "out.safetensors", "--force"]) == 130
    assert "interrupted" in one_line(capsys.readouterr().err)
    assert Path("out.safetensors").read_text() == "precious"
    assert sorted(model.parent.iterdir()) == before


def test_help_of_these_commands_does_not_import_torch() -> None:
    code = "import sys; from vaekit.cli import main; main(['bake', '--help']); print('TORCH', 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "--any-family" in done.stdout
    assert done.stdout.endswith("TORCH False\n")

"""compare as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalog.shelves import empty_home
from conftest import SMALL_KL, random_state
from PIL import Image

from vaekit.cli import main
from vaekit.families import Family
from vaekit.latents import Latents
from vaekit.networks.kl import KL
from vaekit.train.export import write_folder

ONE, TWO = (
    Family(name=name, latent_channels=4, downscale=8, scaling_factor=scaling)
    for name, scaling in (("one", 0.5), ("two", 0.25))
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VAEs of two families, two of them with one name."""
    folder = tmp_path_factory.mktemp("vaes")
    for seed, (name, space) in enumerate((("x/vae", ONE), ("y/vae", ONE), ("big", TWO))):
        network = KL(SMALL_KL)
        network.load_state_dict(random_state(SMALL_KL, seed))
        write_folder(network, space, folder / name)
    return folder


@pytest.fixture(autouse=True)
def work(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures and latents."""
    home = empty_home(tmp_path / "home", monkeypatch)
    rng = np.random.default_rng(0)
    for name in ("photo", "second"):
        Image.fromarray(rng.integers(0, 256, (20, 36, 3), dtype=np.uint8)).save(f"{name}.png")
    torch.manual_seed(0)
    own = [path.read_text() for path in (shelf / "x/vae/family.toml", shelf / "big/family.toml")]
    Path("../families.toml").write_text("\n".join(own))
    monkeypatch.setenv("VAEKIT_FAMILIES", str(home / "families.toml"))
    Latents(torch.randn(1, 4, 3, 5), ONE, (36, 20)).save("one.latents.safetensors")
    Path("text.png").write_text("hello")
    return home / "work"


def vaes(shelf: Path, *names: str) -> list[str]:
    return [word for name in names for word in ("--vae", str(shelf / name))]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(["--quiet", "compare", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_pictures_through_named_vaes_of_two_families(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "photo.png", "second.png", "--no-charts", *vaes(shelf, "x/vae", "y/vae", "big"), "-o", "out")
    assert [vae["name"] for vae in told["vaes"]] == ["x/vae", "y/vae", "big"]
    assert [vae["family"] for vae in told["vaes"]] == ["one", "one", "two"]
    assert [one["name"] for one in told["compared"]] == ["photo.png", "second.png"]
    assert told["page"] == "out/index.html" and Path(told["page"]).exists()
    assert json.loads(Path("out/comparison.json").read_text("utf-8"))["means"] == told["means"]
    assert Path("out/photo.grid.png").exists() and Path("out/comparison.csv").exists()


def test_tables_are_printed(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["photo.png", "--no-charts", *vaes(shelf, "x/vae", "big"), "--round-trips", "2"]
    assert main(["compare", *arguments]) == 0
    text = capsys.readouterr().out
    for word in ("PSNR dB", "CIEDE2000", "green–magenta", "edges kept", "look", "after 2 round trips"):
        assert word in text
    assert "Open vaekit-compare/index.html" in text


def test_charts_are_compared_unless_told_otherwise(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("colour_chart", "text_page"):
        monkeypatch.setattr(f"vaekit.quality.charts.{name}", lambda: Image.new("RGB", (16, 16), "red"))
    told = run(capsys, "photo.png", *vaes(shelf, "big"))
    assert [one["kind"] for one in told["compared"]] == ["picture", "chart", "chart"]


def test_without_names_all_vaes_of_a_family_on_this_disk_are_compared(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shelf / "big", shelf / "broken", dirs_exist_ok=True)
    (shelf / "broken" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    told = run(capsys, "photo.png", "--no-charts", "--family", "one", "--models", str(shelf))
    assert sorted(vae["name"] for vae in told["vaes"]) == ["x/vae", "y/vae"]
    shutil.rmtree(shelf / "broken")


def test_without_anything_the_bundled_miniatures_are_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run(capsys, "photo.png", "--no-charts")
    assert "mini" in {vae["name"] for vae in told["vaes"]}
    assert {vae["family"] for vae in told["vaes"]} == {"mini"}


def test_latents_go_through_the_decoders_of_their_family(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "one.latents.safetensors", "--models", str(shelf))
    assert sorted(vae["name"] for vae in told["vaes"]) == ["x/vae", "y/vae"]
    (one,) = told["compared"]
    assert (one["kind"], one["reference"]) == ("latents", told["vaes"][0]["name"])
    assert one["results"][0]["identical"] and not one["results"][1]["identical"]


def test_latents_that_tell_no_family_are_taken_as_the_first_vaes(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("bare.npy", np.zeros((1, 4, 3, 5), np.float32))
    told = run(capsys, "bare.npy", "--scaled", *vaes(shelf, "big"))
    assert told["compared"][0]["kind"] == "latents"
    assert main(["compare", "bare.npy", "--scaled", "-o", "other"]) == 2
    assert "family" in one_line(capsys.readouterr().err)


def test_a_broken_picture_is_told_and_the_others_go_on(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quiet", "compare", "text.png", "photo.png", "--no-charts", *vaes(shelf, "big"), "--json"]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "text.png" in one_line(printed.err)
    assert [one["name"] for one in json.loads(printed.out)["compared"]] == ["photo.png"]


def test_a_folder_of_pictures_and_latents_is_not_guessed_at(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").unlink()
    assert main(["--quiet", "compare", "."]) == 2
    assert "one by one" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["no-such.png"], "no-such.png"),
        (["text.png", "--no-charts"], "text.png"),
        (["photo.png", "--vae", "minni"], "minni"),
        (["photo.png", "--vae", "mini", "--vae", "mini"], "twice"),
        (["photo.png", "--round-trips", "0"], "one is the least"),
        (["one.latents.safetensors", "--vae", "mini", "--round-trips", "2"], "decoded once"),
        (["one.latents.safetensors", "--vae", "mini", "--charts"], "without them"),
        (["one.latents.safetensors", "--vae", "mini"], "of one, and mini decodes mini"),
        (["photo.png", "--family", "sd9"], "sd9"),
        (["photo.png", "--family", "sd3"], "no VAE of sd3 is on this disk"),
        (["photo.png", "--vae", "mini", "--dtype", "int8"], "int8"),
        (["photo.png", "--alpha", "no-colour", "--no-charts"], "no-colour"),
        (["photo.png", "--max-pixels", "10", "--no-charts"], "photo.png"),
        (["photo.png", "-o", "text.png"], "text.png"),
        (["photo.png", "-o", "."], "not empty"),
        (["photo.png", "one.latents.safetensors"], "one by one"),
        (["a\0b.png"], "no such file"),
        (["photo.png", "--vae", "mini", "--models", "."], "--models would do nothing"),
        (["photo.png", "--unscaled"], "these are pictures"),
        (["one.latents.safetensors", "--alpha", "white"], "--alpha would do nothing"),
        (["one.latents.safetensors", "--max-pixels", "9"], "these are latents"),
    ],
)
def test_bad_input_gives_one_line_and_code_2_and_leaves_nothing(
    arguments: list[str], said: str, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.assets.bundled_models", lambda: ["mini"])
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    assert main(["--quiet", "compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert said in one_line(printed.err)
    assert printed.out == ""
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before

"""txt2img, img2img, info, latents trace: the commands, their options and their one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from generate.models import write_folder
from PIL import Image

from vaekit.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("cli") / "small-sd"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_whole_way(model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", model, "--steps", "2"]
    drawing = ["txt2img", "a red apple", "--seed", "7", "--preview", "p.png", "--trace", "t.safetensors"]
    assert main([*drawing, *common]) == 0
    out, err = capsys.readouterr()
    assert "txt2img-7.png  (32×32, seed 7)" in out
    assert "VAE: mini, because it is the standard VAE of mini" in err
    assert files(here) == ["p.png", "t.safetensors", "txt2img-7.png"]
    assert main(["info", "txt2img-7.png", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["prompt"] == "a red apple"
    assert told["settings"]["VAE"] == "mini" and len(told["settings"]["Model hash"]) == 10
    assert main(["latents", "trace", "t.safetensors", "-o", "a.gif", "--vae", "linear"]) == 0
    assert {"a.gif", "a.sheet.png"} <= set(files(here))
    capsys.readouterr()
    assert main(["img2img", "txt2img-7.png", "a blue cat", "--seed", "1", "-o", "i.png", *common, "--json"]) == 0
    (done,) = json.loads(capsys.readouterr().out)
    assert done["settings"]["Denoising strength"] == "0.75"


def test_several_pictures_are_numbered_or_named_by_their_seeds(model: str, here: Path) -> None:
    common = ["--model", model, "--steps", "1", "--seed", "4"]
    assert main(["txt2img", "x", "--batch-size", "2", "-o", "n.webp", *common]) == 0
    assert main(["txt2img", "x", "--count", "2", "-o", "folder", *common]) == 0
    assert files(here) == ["folder", "n-0.webp", "n-1.webp"]
    assert files(here / "folder") == ["txt2img-4.png", "txt2img-5.png"]


def test_every_setting_of_a_mask_changes_the_picture(model: str, here: Path) -> None:
    picture = Image.new("RGB", (32, 32), "red")
    picture.paste("blue", (8, 8, 24, 24))
    picture.save("in.png")
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (8, 8, 16, 16))
    mask.save("mask.png")
    common = ["--mask", "mask.png", "--mask-blur", "0", "--model", model, "--steps", "2", "--seed", "1", "--force"]
    found: dict[tuple[str, ...], bytes] = {}
    for options in (
        (),
        ("--masked-content", "fill"),
        ("--masked-content", "latent noise"),
        ("--masked-content", "Latent-Nothing"),
        ("--inpaint-area", "only-masked", "--only-masked-padding", "4"),
        ("--inpaint-area", "Only masked", "--only-masked-padding", "0"),
        ("--invert-mask",),
        ("--redecoded",),
    ):
        assert main(["img2img", "in.png", "x", "-o", "out.png", *common, *options]) == 0
        with Image.open("out.png") as drawn:
            found[options] = drawn.tobytes()
            assert drawn.size == (32, 32)
            inside = (0, 0, 8, 8) if "--invert-mask" in options else (8, 8, 16, 16)
            outside = (8, 8, 16, 16) if "--invert-mask" in options else (20, 20, 32, 32)
            assert drawn.convert("RGB").crop(inside).tobytes() != picture.crop(inside).tobytes()
            if options != ("--redecoded",):
                assert drawn.convert("RGB").crop(outside).tobytes() == picture.crop(outside).tobytes()
    assert len(set(found.values())) == len(found)
    same = ["--masked-content", "original", "--inpaint-area", "whole picture"]
    assert main(["img2img", "in.png", "x", "-o", "out.png", *common, *same]) == 0
    with Image.open("out.png") as drawn:
        assert drawn.tobytes() == found[()]


WRONG = [
    (["txt2img", "x", "--steps", "0"], "0 steps"),
    (["txt2img", "x", "--size", "0"], "0×0"),
    (["txt2img", "x", "--size", "-8x8"], "-8×8"),
    (["txt2img", "x", "--size", "100"], "multiples of 8"),
    (["txt2img", "x", "--size", "100000"], "100000×100000"),
    (["txt2img", "x" * 30_000], "30,000 characters"),
    (["txt2img", "x", "--sampler", "nix"], "no sampler"),
    (["txt2img", "x", "--lora", "nix.safetensors"], "no such LoRA"),
    (["txt2img", "x", "--vae", "mini-b"], "their latents differ"),
    (["txt2img", "x", "--vae", "nix"], "no VAE is called 'nix'"),
    (["txt2img", "x", "--hires-vae", "mini"], "belongs to --hires"),
    (["txt2img", "x", "--hires", "0.5"], "hires scale"),
    (["txt2img", "x", "--preview-vae", "mini-tiny"], "belongs to --preview"),
    (["txt2img", "x", "--preview", "p.xyz"], "unknown kind of picture"),
    (["txt2img", "x", "--trace", "t", "--count", "2"], "one batch"),
    (["txt2img", "x", "-o", "x.nix"], "unknown kind of picture"),
    (["txt2img", "x", "-o", "there.png"], "exists already"),
    (["txt2img", "x", "--dtype", "int4"], "no dtype"),
    (["txt2img", "x", "--memory", "plenty"], "an amount of memory is"),
    (["txt2img", "x", "--memory", "1KiB"], "the least that does is"),
    (["img2img", "there.png", "x", "--memory", "1KiB"], "the least that does is"),
    (["img2img", "there.png", "x", "--strength", "1.5"], "strength of 1.5"),
    (["img2img", "there.png", "x", "--strength", "-1"], "strength of -1"),
    (["img2img", "there.png", "x", "--mask", "small.png"], "of one size"),
    (["img2img", "there.png", "x", "--mask-blur", "3"], "--mask-blur belongs to --mask"),
    (["img2img", "there.png", "x", "--redecoded"], "--redecoded belongs to --mask"),
    (["img2img", "there.png", "x", "--masked-content", "fill"], "--masked-content belongs to --mask"),
    (["img2img", "there.png", "x", "--inpaint-area", "only-masked"], "--inpaint-area belongs to --mask"),
    (["img2img", "there.png", "x", "--only-masked-padding", "8"], "--only-masked-padding belongs to --mask"),
    (["img2img", "there.png", "x", "--invert-mask"], "--invert-mask belongs to --mask"),
    (["img2img", "there.png", "x", "--mask", "there.png", "--masked-content", "blur"], "latent-noise"),
    (["img2img", "there.png", "x", "--mask", "there.png", "--inpaint-area", "half"], "only-masked"),
    (["img2img", "there.png", "x", "--mask", "there.png", "--only-masked-padding", "8"], "--inpaint-area only-masked"),
    (
        ["img2img", "there.png", "x", "--mask", "there.png", "--inpaint-area", "only-masked", "--redecoded"],
        "put back into the picture",
    ),
    (["img2img", "there.png", "x", "--resize", "crop"], "belongs to --size"),
    (["img2img", "there.png", "x", "--resize", "nix", "--size", "64"], "no way to resize"),
    (["img2img", "missing.png", "x"], "no such file"),
    (["info", "there.png"], "does not tell"),
    (["info", "missing.png"], "no such file"),
    (["latents", "trace", "there.png"], "there.png"),
    (["latents", "trace", "missing.safetensors"], "no such file"),
    (["latents", "trace", "t.safetensors", "-o", "a.mp4"], "unknown kind of animation"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_line_and_leaves_nothing(
    model: str, here: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    Image.new("RGB", (32, 32)).save(here / "there.png")
    Image.new("RGB", (16, 16)).save(here / "small.png")
    drawing = ["--model", model, "--seed", "1"] if arguments[0].endswith("2img") else []
    assert main(["--quiet", *arguments, *drawing]) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("vaekit: ")]
    assert len(lines) == 1 and told in lines[0], err
    assert out == ""
    assert files(here) == ["small.png", "there.png"]


SIGNALLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
from vaekit.generate import sampling
real = sampling._check
def slow(x, number, *rest):
    import time
    print("step", number, flush=True)
    time.sleep(0.3)
    real(x, number, *rest)
sampling._check = slow
from vaekit.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("save", [False, True])
def test_ctrl_c_stops_cleanly_and_saves_where_that_is_wished(model: str, here: Path, save: bool) -> None:
    arguments = ["txt2img", "x", "--model", model, "--steps", "60", "--seed", "3", "-o", "x.png"]
    run = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, *arguments, *(["--save-interrupted"] if save else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    while "step 2" not in run.stdout.readline():
        assert run.poll() is None, run.stderr.read() if run.stderr else ""
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert files(here) == (["x.png"] if save else [])
    if save:
        with Image.open("x.png") as picture:
            assert "Interrupted at step: 2" in picture.info["parameters"]


def test_help_does_not_import_torch_or_diffusers() -> None:
    code = (
        "import sys; from vaekit.cli import main; main(['txt2img', '--help']);"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")

"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_KL, random_state
from PIL import Image

from vaekit.cli import main
from vaekit.families import family
from vaekit.latents import Latents
from vaekit.networks.kl import KL
from vaekit.train.export import write_folder
from vaekit.vae import VAE


@pytest.fixture
def vae(tmp_path: Path) -> str:
    network = KL(SMALL_KL)
    network.load_state_dict(random_state(SMALL_KL))
    write_folder(network, family("sd1"), tmp_path / "vae")
    return str(tmp_path / "vae")


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def size_of(name: str) -> tuple[int, int]:
    with Image.open(name) as picture:
        return picture.size


def test_encode_then_decode_gives_a_picture_of_the_same_size(vae: str, photo: Path) -> None:
    assert main(["encode", "photo.png", "--vae", vae]) == 0
    assert main(["decode", "photo.latents.safetensors", "--vae", vae, "-o", "back.png"]) == 0
    assert size_of("back.png") == (36, 20)


def test_encode_reports_as_json(vae: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "photo.png", "--vae", vae, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["size"], row["shape"]) == ([36, 20], [1, 4, 3, 5])


def test_decisions_are_told_and_quiet_keeps_them(vae: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["encode", "photo.png", "--vae", vae])
    told = capsys.readouterr().err
    assert "float32" in told
    assert "scaling_factor 0.18215" in told
    assert main(["--quiet", "encode", "photo.png", "--vae", vae, "--force"]) == 0
    assert capsys.readouterr().err == ""


def test_the_comfyui_format_is_raw_and_comes_back_exactly(vae: str, photo: Path) -> None:
    main(["encode", "photo.png", "--vae", vae])
    main(["encode", "photo.png", "--vae", vae, "--comfyui"])
    ours = Latents.load("photo.latents.safetensors")
    theirs = Latents.load("photo.latent", family=ours.family)
    assert torch.equal(ours.tensor, theirs.tensor.to(ours.tensor.dtype))
    assert main(["decode", "photo.latent", "--vae", vae, "-o", "comfy.png"]) == 0


def test_unscaled_latents_are_stored_raw_and_read_back_scaled(vae: str, photo: Path) -> None:
    from safetensors.numpy import load_file

    main(["encode", "photo.png", "--vae", vae])
    main(["encode", "photo.png", "--vae", vae, "--unscaled", "-o", "raw.safetensors"])
    scaled = Latents.load("photo.latents.safetensors").tensor
    assert torch.equal(Latents.load("raw.safetensors").tensor, scaled)
    assert load_file("raw.safetensors")["latents"].std() == pytest.approx(
        scaled.std(correction=0).item() / 0.18215, rel=1e-4
    )


def test_a_sample_follows_its_seed(vae: str, photo: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            main(["encode", "photo.png", "--vae", vae, "--sample", "--seed", str(seed), "-o", f"{name}.safetensors"])
            == 0
        )
    a, b, c = (Latents.load(f"{name}.safetensors").tensor for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_family_and_padding_and_dtype_act(vae: str, photo: Path) -> None:
    wide = ["--dtype", "float32"]  # whatever this processor's default is
    main(["encode", "photo.png", "--vae", vae, *wide, "-o", "plain.safetensors"])
    plain = Latents.load("plain.safetensors")
    changes = (["--family", "sdxl", *wide], ["--padding", "reflect", *wide], ["--dtype", "bfloat16"])
    for number, options in enumerate(changes):
        assert main(["encode", "photo.png", "--vae", vae, *options, "-o", f"{number}.safetensors"]) == 0
        assert not torch.equal(Latents.load(f"{number}.safetensors").tensor, plain.tensor), options
    assert Latents.load("0.safetensors").family.name == "sdxl"


def test_alpha_is_kept_or_composited(vae: str, photo: Path) -> None:
    Image.open("photo.png").convert("RGBA").resize((16, 16)).save("opaque.png")
    picture = Image.open("opaque.png")
    picture.putalpha(100)
    picture.save("clear.png")
    main(["encode", "clear.png", "--vae", vae, "-o", "kept.safetensors"])
    main(["encode", "clear.png", "--vae", vae, "--alpha", "#00ff00", "-o", "green.safetensors"])
    assert Latents.load("kept.safetensors").alpha is not None
    assert Latents.load("green.safetensors").alpha is None


def test_roundtrip_measures_and_writes(vae: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roundtrip", "photo.png", "--vae", vae, "-o", "out.png", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    original, result = (np.asarray(Image.open(name), dtype=np.float64) for name in ("photo.png", "out.png"))
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / np.square(original - result).mean()), abs=1e-6)


def test_roundtrip_of_several_prints_their_mean(vae: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open("photo.png").rotate(180).save("second.png")
    assert main(["roundtrip", "photo.png", "second.png", "--vae", vae]) == 0
    assert "mean" in capsys.readouterr().out


def test_a_broken_picture_among_good_ones_is_told_and_the_others_go_on(
    vae: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.png").write_bytes(photo.read_bytes()[:200])
    assert main(["--quiet", "encode", "broken.png", "photo.png", "--vae", vae]) == 2
    assert "broken.png" in one_line(capsys.readouterr().err)
    assert Path("photo.latents.safetensors").exists()
    assert not Path("broken.latents.safetensors").exists()


def test_a_folder_is_encoded_and_decoded_as_each_file_alone(
    vae: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        Image.open("photo.png").rotate(90 * number).save(f"{number}.png")
    Path("1.png").write_bytes(b"no picture")
    main(["encode", "3.png", "--vae", vae, "-o", "alone.safetensors"])
    capsys.readouterr()
    assert main(["-q", "encode", "0.png", "1.png", "2.png", "3.png", "--vae", vae, "-o", "z", "--json"]) == 2
    told = capsys.readouterr()
    assert "1.png" in one_line(told.err)
    assert [row["picture"] for row in json.loads(told.out)] == ["0.png", "2.png", "3.png"]
    assert sorted(path.name for path in Path("z").iterdir()) == [f"{n}.latents.safetensors" for n in (0, 2, 3)]
    assert torch.equal(Latents.load("z/3.latents.safetensors").tensor, Latents.load("alone.safetensors").tensor)
    Path("z/2.latents.safetensors").write_bytes(b"no latents")
    assert main(["-q", "decode", "z", "--vae", vae, "-o", "back"]) == 2
    assert "2.latents" in one_line(capsys.readouterr().err)
    assert [size_of(f"back/{name}.png") for name in "03"] == [(36, 20)] * 2
    assert len(list(Path("back").iterdir())) == 2


def test_a_folder_for_a_tiny_vae_is_decoded_at_once_to_the_pictures_of_each_alone(photo: Path) -> None:
    for number in range(3):
        Image.open("photo.png").rotate(180 * number).save(f"{number}.png")
    assert main(["encode", "0.png", "1.png", "2.png", "--vae", "mini-tiny", "-o", "z"]) == 0
    assert main(["decode", "z", "--vae", "mini-tiny", "-o", "back"]) == 0
    for number in range(3):
        assert (
            main(["decode", f"z/{number}.latents.safetensors", "--vae", "mini-tiny", "-o", "alone.png", "--force"]) == 0
        )
        together, alone = (np.asarray(Image.open(name), int) for name in (f"back/{number}.png", "alone.png"))
        assert together.shape == (20, 36, 3) and np.abs(together - alone).max() <= 1
    assert not np.array_equal(np.asarray(Image.open("back/0.png")), np.asarray(Image.open("back/1.png")))


def test_an_interruption_leaves_whole_files_and_no_others(
    vae: str, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        Image.open("photo.png").rotate(90 * number).save(f"{number}.png")
    encode, done = VAE.encode, []

    def interrupted(self: VAE, *rest: Any, **how: Any) -> Latents:
        done.append(rest)
        if len(done) == 3:
            raise KeyboardInterrupt
        return encode(self, *rest, **how)

    monkeypatch.setattr(VAE, "encode", interrupted)
    assert main(["-q", "encode", *(f"{n}.png" for n in range(4)), "--vae", vae, "-o", "z"]) == 130
    assert "interrupted" in one_line(capsys.readouterr().err)
    written = sorted(path.name for path in Path("z").iterdir())
    assert written == ["0.latents.safetensors", "1.latents.safetensors"]
    assert all(Latents.load(f"z/{name}").size == (36, 20) for name in written)


def test_nothing_is_overwritten_without_force(vae: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo.latents.safetensors").write_text("precious")
    assert main(["encode", "photo.png", "--vae", vae]) == 2
    assert "--force" in one_line(capsys.readouterr().err)
    assert Path("photo.latents.safetensors").read_text() == "precious"
    assert main(["encode", "photo.png", "--vae", vae, "--force"]) == 0


def test_two_inputs_that_would_share_an_output_are_refused(
    vae: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b").mkdir()
    Image.open("photo.png").save("b/photo.jpg")
    assert main(["encode", "photo.png", "b/photo.jpg", "--vae", vae]) == 2
    assert "photo.latents.safetensors" in one_line(capsys.readouterr().err)


def test_inspect_tells_what_a_folder_holds(vae: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", vae]) == 0
    text = capsys.readouterr().out
    assert "kl, encoder and decoder" in text
    assert "diffusers" in text
    assert main(["inspect", vae, "--json", "--fingerprint"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["config"]["encoder_channels"] == [32] * 4
    assert len(entry["fingerprint"]["vae"]) == 64


def test_inspect_tells_whether_a_vae_overflows_in_float16(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vaekit.assets.sample_photos", lambda: [photo])
    for loud in (False, True):
        network = KL(SMALL_KL)
        network.load_state_dict(random_state(SMALL_KL))
        assert network.decoder is not None
        if loud:
            network.decoder.conv_in.weight.data.fill_(6e4)
        write_folder(network, family("sd1"), tmp_path / f"loud-{loud}")
        assert main(["inspect", str(tmp_path / f"loud-{loud}"), "--float16"]) == 0
        told = capsys.readouterr().out.splitlines()[-1]
        assert told.startswith("float16     ")
        assert ("overflows in float16 at decoder.conv_in" in told) is loud
        assert ("fits: its largest value is" in told) is not loud
    assert main(["inspect", str(tmp_path / "loud-True"), "--float16", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["float16"]["overflows"] is True and entry["float16"]["of_float16"] > 1


def test_latents_show_draws_a_sheet_channels_or_a_preview(vae: str, photo: Path) -> None:
    main(["encode", "photo.png", "--vae", vae, "--family", "sd1"])
    name = "photo.latents.safetensors"
    assert main(["latents", "show", name]) == 0
    assert (
        main(
            ["latents", "show", name, "--each", "--zoom", "3", "--palette", "grey", "--scale", "channel", "-o", "c.png"]
        )
        == 0
    )
    assert [size_of(f"c-{i}.png") for i in range(4)] == [(15, 9)] * 4
    assert size_of("photo.channels.png")[0] > 30


def test_latents_stats_warns_when_the_scale_is_wrong(vae: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vaekit.families import family

    good = Latents(torch.randn(1, 4, 32, 32), family("sd1"), (256, 256))
    good.save("good.safetensors")
    Latents(good.tensor / 0.18215, family("sd1"), (256, 256)).save("bad.safetensors")
    assert main(["latents", "stats", "good.safetensors", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["warnings"] == []
    assert row["overall"]["std"] == pytest.approx(1, abs=0.05)
    main(["latents", "stats", "bad.safetensors"])
    assert "unscaled" in capsys.readouterr().err


BAD = {
    "a missing picture": ["encode", "no-such.png"],
    "a picture that is none": ["encode", "text.png"],
    "an empty picture": ["encode", "empty.png"],
    "a folder without pictures": ["encode", "nothing"],
    "a missing VAE": ["encode", "photo.png", "--vae", "no-such.safetensors"],
    "a misspelt bundled VAE": ["encode", "photo.png", "--vae", "minni"],
    "a picture as VAE": ["encode", "photo.png", "--vae", "photo.png"],
    "an unknown family": ["encode", "photo.png", "--family", "sd9"],
    "a family that cannot be": ["encode", "photo.png", "--family", "flux1"],
    "an unknown device": ["encode", "photo.png", "--device", "abacus"],
    "a device that is not here": ["encode", "photo.png", "--device", "cuda:77"],
    "an unknown dtype": ["encode", "photo.png", "--dtype", "int8"],
    "an unknown padding": ["encode", "photo.png", "--padding", "round"],
    "a bad colour": ["encode", "photo.png", "--alpha", "not-a-colour"],
    "a limit of nothing": ["encode", "photo.png", "--max-pixels", "0"],
    "a picture over the limit": ["encode", "photo.png", "--max-pixels", "10"],
    "a seed without sampling": ["encode", "photo.png", "--seed", "1"],
    "an output in a file": ["encode", "photo.png", "-o", "text.png/x.safetensors"],
    "a picture as latents": ["decode", "photo.png"],
    "text as latents": ["decode", "text.png"],
    "a picture format nobody knows": ["decode", "photo.latents.safetensors", "--format", "xyz"],
    "a folder as latents": ["latents", "stats", "nothing"],
    "a zoom of nothing": ["latents", "show", "photo.latents.safetensors", "--zoom", "0"],
    "a picture beyond the batch": ["latents", "show", "photo.latents.safetensors", "--index", "5"],
    "an unknown palette": ["latents", "show", "photo.latents.safetensors", "--palette", "pink"],
    "an unknown scale": ["latents", "show", "photo.latents.safetensors", "--scale", "own"],
    "each and preview": ["latents", "show", "photo.latents.safetensors", "--each", "--preview"],
    "a missing file to inspect": ["inspect", "no-such"],
    "text to inspect": ["inspect", "text.png"],
    "an unknown option": ["encode", "photo.png", "--frobnicate"],
    "an unknown command": ["frobnicate"],
    "a null byte": ["encode", "a\0b.png"],
    "a demo into a full folder": ["demo", "-o", "full"],
    "a demo into a file": ["demo", "-o", "text.png"],
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gives_one_line_and_code_2(
    what: str, vae: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaekit.families import family

    Path("text.png").write_text("hello")
    Path("empty.png").touch()
    Path("nothing").mkdir()
    Path("full").mkdir()
    Path("full/precious.txt").write_text("mine")
    Latents(torch.zeros(1, 4, 3, 5), family("sd1"), (36, 20)).save("photo.latents.safetensors")
    before = {path: path.stat().st_mtime_ns for path in photo.parent.rglob("*")}
    arguments = BAD[what]
    if arguments[0] in ("encode", "decode") and "--vae" not in arguments:
        arguments = [*arguments, "--vae", vae]
    assert main(["--quiet", *arguments]) == 2
    printed = capsys.readouterr()
    assert one_line(printed.err).startswith("vaekit: ")
    assert printed.out in ("", "[]\n")
    assert {path: path.stat().st_mtime_ns for path in photo.parent.rglob("*")} == before


def test_a_format_nobody_writes_is_refused_before_the_work(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo.latents.safetensors").touch()
    assert main(["decode", "photo.latents.safetensors", "--format", "xyz", "--vae", "no-such.safetensors"]) == 2
    assert ".xyz" in one_line(capsys.readouterr().err)


def test_ctrl_c_leaves_no_half_file(
    vae: str, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vaekit.files.os.fsync", interrupted)  # the temporary file is written by then
    before = sorted(photo.parent.iterdir())
    assert main(["--quiet", "encode", "photo.png", "--vae", vae]) == 130
    assert "interrupted" in one_line(capsys.readouterr().err)
    assert sorted(photo.parent.iterdir()) == before


def in_a_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_help_does_not_import_torch() -> None:
    code = "import sys; from vaekit.cli import main; main(['--help']); print('TORCH', 'torch' in sys.modules)"
    printed = in_a_fresh_process(code)
    assert "Usage: vaekit" in printed
    assert printed.endswith("TORCH False\n")


def test_inspect_of_safetensors_does_not_import_torch(vae: str) -> None:
    code = (
        f"import sys; from vaekit.cli import main; main(['inspect', {vae!r}]); print('TORCH', 'torch' in sys.modules)"
    )
    printed = in_a_fresh_process(code)
    assert "kl, encoder and decoder" in printed
    assert printed.endswith("TORCH False\n")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import vaekit

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vaekit {vaekit.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_offered(shell: str) -> None:
    code = f"from vaekit.cli import run; run(['--show-completion', {shell!r}])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "_VAEKIT_COMPLETE" in completed.stdout

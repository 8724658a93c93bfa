"""vae pull and vae search as a user meets them, against a server on this machine."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from catalog.server import (
    Fault,
    Server,
    civitai_file,
    civitai_model,
    civitai_version,
    hub_repository,
    listen,
    running,
    sha256,
)
from checkpoints.making import half_of, in_diffusers_names, kl_state, numbered, save_torch, tiny_state
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from vaekit.catalog import download as downloading
from vaekit.catalog.pull import pull, safe_name
from vaekit.checkpoints.locate import WEIGHT_SUFFIXES
from vaekit.checkpoints.read import read
from vaekit.cli import main
from vaekit.errors import FileError

CONFIG = b'{"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.18215}'
WEIGHTS = "diffusion_pytorch_model.safetensors"
SECRET = "0123456789abcdef0123456789abcdef"
VAE = save(kl_state())


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing of the user's is read or written, and what fails does so without pauses."""
    home = tmp_path / "home"
    for variable in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setattr(f"platformdirs.user_{variable.lower()}_path", lambda *a, v=variable, **o: home / v.lower())
    for variable in ("HF_TOKEN", "CIVITAI_API_TOKEN", "VAEKIT_CATALOG", "VAEKIT_MODELS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    monkeypatch.chdir(tmp_path)
    return home / "data" / "vaes"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with running() as started:
        monkeypatch.setenv("CIVITAI_ENDPOINT", started.url)
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        yield started


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("vaekit: ")
    return lines[0]


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_an_address_becomes_a_file_in_vaekits_own_folder(
    server: Server, own_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("/files/my%20vae.safetensors", VAE)
    assert main(["vae", "pull", server.url + "/files/my%20vae.safetensors?x=1"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == str(own_folders / "my vae.safetensors")
    assert "kl, encoder and decoder" in printed.out
    assert "?x=1" not in printed.err
    assert (own_folders / "my vae.safetensors").read_bytes() == VAE
    assert everything_in(own_folders) == {"my vae.safetensors"}


def test_to_and_json_act(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("/vae.ckpt", VAE)
    assert main(["--quiet", "vae", "pull", server.url + "/vae.ckpt", "--to", "models/VAE", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    told = json.loads(printed.out)
    assert told["path"] == "models/VAE/vae.ckpt"
    assert told["holds"][0]["layout"] == "ldm"
    assert Path("models/VAE/vae.ckpt").read_bytes() == VAE


def test_a_name_of_the_catalog_is_fetched_once_and_called_by_that_name(
    server: Server, own_folders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub_repository(server, "a/b", {"x/y.safetensors": VAE})
    Path("own.toml").write_text(
        f'[my-vae]\ntitle = "mine"\nfamily = "sd1"\naliases = ["mine"]\n'
        f'files = [{{ hub = "a/b", file = "x/y.safetensors", sha256 = "{sha256(VAE)}", size = {len(VAE)} }}]\n'
    )
    monkeypatch.setenv("VAEKIT_CATALOG", "own.toml")
    assert pull("mine") == own_folders / "my-vae.safetensors"
    assert everything_in(own_folders) == {"my-vae.safetensors"}
    server.close()
    listen(monkeypatch, caplog, "INFO")
    assert pull("my-vae") == own_folders / "my-vae.safetensors"
    assert "is there already" in caplog.text


def test_a_vae_in_two_files_becomes_a_folder(
    server: Server, own_folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = {half: save(numbered(tiny_state(), half)) for half in ("encoder", "decoder")}
    hub_repository(server, "a/b", {f"taesd_{half}.safetensors": content for half, content in pair.items()})
    files = ", ".join(
        f'{{ hub = "a/b", file = "taesd_{half}.safetensors", sha256 = "{sha256(content)}" }}'
        for half, content in pair.items()
    )
    Path("own.toml").write_text(f'[tae]\ntitle = "t"\nfamily = "sd1"\nnetwork = "tiny"\nfiles = [{files}]\n')
    monkeypatch.setenv("VAEKIT_CATALOG", "own.toml")
    assert pull("tae") == own_folders / "tae"
    assert everything_in(own_folders) == {"tae", "tae/taesd_encoder.safetensors", "tae/taesd_decoder.safetensors"}
    config = read(own_folders / "tae").identity.config
    assert config.has_encoder and config.has_decoder
    assert pull("tae") == own_folders / "tae"


def test_a_repository_of_diffusers_becomes_a_folder_that_tells_its_family(
    server: Server, own_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_repository(server, "somebody/sd-vae", {"config.json": CONFIG, WEIGHTS: save(in_diffusers_names(kl_state()))})
    assert main(["vae", "pull", "hf:somebody/sd-vae"]) == 0
    assert everything_in(own_folders) == {"sd-vae", "sd-vae/config.json", f"sd-vae/{WEIGHTS}"}
    assert str(own_folders / "sd-vae") in capsys.readouterr().out
    assert main(["vae", "pull", "https://huggingface.co/somebody/sd-vae", "--to", "."]) == 0
    assert Path("sd-vae", "config.json").read_bytes() == CONFIG


def test_a_model_of_civitai_is_fetched_through_its_redirect(server: Server, own_folders: Path) -> None:
    version = civitai_version(311162, [civitai_file(server, 311162, VAE)])
    server.put_json("/api/v1/models/276082", civitai_model(276082, [version]))
    for target in ("civitai:276082@311162", "https://civitai.com/models/276082?modelVersionId=311162"):
        assert main(["vae", "pull", target]) == 0
    assert everything_in(own_folders) == {"vae-311162.safetensors"}
    assert len(server.asked_for("/store/311162")) == 1


def test_a_dropped_connection_is_gone_on_with_by_the_next_command(
    server: Server, own_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = len(VAE) // 2
    page = server.put("/vae.safetensors", VAE, faults=[Fault(drop_after=half), *[Fault(status=500)] * 9])
    assert main(["--quiet", "vae", "pull", server.url + "/vae.safetensors"]) == 1
    assert "the same command goes on from there" in one_line(capsys)
    assert not (own_folders / "vae.safetensors").exists()
    page.faults.clear()
    assert main(["--quiet", "vae", "pull", server.url + "/vae.safetensors"]) == 0
    assert server.asked[-1].headers["range"] == f"bytes={half}-"
    assert everything_in(own_folders) == {"vae.safetensors"}


def test_two_at_the_same_time_fetch_it_once(server: Server, own_folders: Path) -> None:
    version = civitai_version(2, [civitai_file(server, 2, VAE)])
    server.put_json("/api/v1/models/1", civitai_model(1, [version]))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(pull("civitai:1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [own_folders / "vae-2.safetensors"] * 4
    assert len(server.asked_for("/store/2")) == 1


def test_what_is_there_is_not_overwritten_without_force(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("/vae.safetensors", VAE)
    Path("vae.safetensors").write_text("precious")
    arguments = ["--quiet", "vae", "pull", server.url + "/vae.safetensors", "--to", "."]
    assert main(arguments) == 2
    assert "exists already" in one_line(capsys)
    assert Path("vae.safetensors").read_text() == "precious"
    assert server.asked == []
    assert main([*arguments, "--force"]) == 0
    assert Path("vae.safetensors").read_bytes() == VAE


def test_a_folder_that_is_there_keeps_its_other_files(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    hub_repository(server, "somebody/sd-vae", {"config.json": CONFIG, WEIGHTS: save(in_diffusers_names(kl_state()))})
    Path("sd-vae").mkdir()
    Path("sd-vae/precious.txt").write_text("mine")
    arguments = ["--quiet", "vae", "pull", "hf:somebody/sd-vae", "--to", "."]
    assert main(arguments) == 2
    assert "exists already" in one_line(capsys)
    assert main([*arguments, "--force"]) == 0
    assert everything_in(Path("sd-vae")) == {"precious.txt", "config.json", WEIGHTS}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("pwned"),))  # type: ignore[return-value]


BAD = {
    "a lora": (save({"lora_unet_x.lora_down.weight": torch.zeros(4, 4)}), ".safetensors"),
    "a web page": (b"<!DOCTYPE html><title>Log in</title>", ".safetensors"),
    "nothing": (b"", ".safetensors"),
    "a truncated file": (VAE[: len(VAE) // 2], ".safetensors"),
    "a header without end": (b"\xff" * 8 + b"{", ".safetensors"),
    "a pickle that asks for code": (pickle.dumps(Evil(), 2), ".ckpt"),
    "random bytes": (random.Random(0).randbytes(5000), ".pt"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_vae_is_never_said_to_be_ready(
    what: str, server: Server, own_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, suffix = BAD[what]
    server.put(f"/vae{suffix}", content)
    assert main(["--quiet", "vae", "pull", f"{server.url}/vae{suffix}"]) == 2
    line = one_line(capsys)
    assert f"vae{suffix}" in line
    assert "nothing was kept" in line
    assert ".part" not in line
    assert everything_in(own_folders) == set()
    assert not Path("pwned").exists()


def test_a_sound_pickle_and_a_half_are_taken(server: Server, tmp_path: Path, own_folders: Path) -> None:
    server.put("/vae.pt", save_torch({"state_dict": kl_state()}, tmp_path / "x").read_bytes())
    server.put("/half.safetensors", save(half_of(kl_state(), "decoder")))
    assert main(["vae", "pull", server.url + "/vae.pt"]) == 0
    assert main(["vae", "pull", server.url + "/half.safetensors"]) == 0
    assert everything_in(own_folders) == {"vae.pt", "half.safetensors"}


def test_a_repository_of_something_else_is_refused_by_its_header_alone(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = save({"input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3), "big": torch.zeros(300_000)})
    hub_repository(server, "a/unet", {"model.safetensors": unet})
    assert main(["--quiet", "vae", "pull", "hf:a/unet"]) == 2
    assert "model.safetensors" in one_line(capsys)
    ranges = [asked.headers.get("range") for asked in server.asked_for("/a/unet/resolve/main/model.safetensors")]
    assert ranges == ["bytes=0-100000"]


def test_a_wrong_hash_leaves_nothing(server: Server, own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = civitai_file(server, 2, VAE, hashes={"SHA256": sha256(b"other").upper()})
    server.put_json("/api/v1/models/1", civitai_model(1, [civitai_version(2, [file])]))
    assert main(["--quiet", "vae", "pull", "civitai:1"]) == 2
    assert "SHA-256" in one_line(capsys)
    assert everything_in(own_folders) == set()


def test_a_token_is_never_printed(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_API_TOKEN", SECRET)
    server.put_json("/api/v1/models/1", civitai_model(1, [civitai_version(2, [civitai_file(server, 2, VAE)])]))
    server.pages["/api/download/models/2"].token = "another"
    assert main(["vae", "pull", "civitai:1"]) == 2
    with pytest.raises(Exception, match="wants a login"):
        main(["--debug", "vae", "pull", "civitai:1"])
    assert server.asked[-1].headers["authorization"] == f"Bearer {SECRET}"
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err


@pytest.mark.parametrize(
    "name", ["../../evil.safetensors", "..\\..\\evil.safetensors", "/etc/evil.safetensors", "C:\\evil.safetensors"]
)
def test_names_that_servers_give_stay_in_the_folder(server: Server, own_folders: Path, name: str) -> None:
    server.put("/get/1", VAE, headers={"Content-Disposition": f'attachment; filename="{name}"'})
    server.put_json(
        "/api/v1/models/1", civitai_model(1, [civitai_version(2, [civitai_file(server, 2, VAE, name=name)])])
    )
    assert pull(server.url + "/get/1").name == "evil.safetensors"
    (own_folders / "evil.safetensors").unlink()
    assert pull("civitai:1") == own_folders / "evil.safetensors"
    assert everything_in(own_folders) == {"evil.safetensors"}


@given(st.text(min_size=1, max_size=300), st.sampled_from(WEIGHT_SUFFIXES))
def test_any_name_becomes_one_plain_component(text: str, suffix: str) -> None:
    try:
        name = safe_name(text + suffix)
    except FileError:
        return
    assert Path(name).name == name == Path("folder", name).parts[1]
    assert name.isprintable()
    assert not name.startswith((".", " ", "~"))
    assert not set(name) & set('/\\:*?"<>|')
    assert len(name.encode()) < 200
    assert Path(name).suffix == suffix
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["con.safetensors", "NUL.ckpt", "com1.vae.pt"])
def test_names_of_devices_are_not_used(name: str) -> None:
    assert safe_name(name) == f"_{name}"


MISTAKES = {
    "an unknown name": (["no-such-vae"], "vae search"),
    "a misspelt name": (["ft-msee"], "did you mean"),
    "a repository without hf:": (["stabilityai/sdxl-vae"], "hf:stabilityai/sdxl-vae"),
    "no repository": (["hf:nonsense"], "hf:OWNER/NAME"),
    "no number": (["civitai:ft-mse"], "civitai:MODEL"),
    "no address": (["https://"], "address"),
    "an address of no weights": (["http://127.0.0.1:9/picture.png/x.zip?a"], ""),
    "what ships with vaekit, elsewhere": (["mini", "--to", "x"], "ships with vaekit"),
    "a folder that is a file": (["hf:a/b", "--to", "file/x"], "file"),
    "an empty name": ([""], "''"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_one_line(what: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    hub_repository(server, "a/b", {"vae.safetensors": VAE})
    arguments, told = MISTAKES[what]
    assert main(["--quiet", "vae", "pull", *arguments]) in (1, 2)
    assert told in one_line(capsys)


def test_what_ships_with_vaekit_needs_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vae", "pull", "mini"]) == 0
    assert "mini (by" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["ft-mse", "hf:a/b", "civitai:1", "https://127.0.0.1:1/vae.safetensors"])
def test_offline_is_one_line(
    target: str, own_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("CIVITAI_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert main(["--quiet", "vae", "pull", target]) == 1
    assert "no connection to 127.0.0.1" in one_line(capsys)
    assert everything_in(own_folders) == set()


# vae search


@pytest.fixture
def shop(server: Server) -> Server:
    version = civitai_version(2, [civitai_file(server, 2, bytes(3_000_000))], name="[bold]v2\x1b[31m")
    server.put_json("/api/v1/models", {"items": [civitai_model(1, [version], name="Anime VAE")], "metadata": {}})
    server.put_json("/api/models", [])
    return server


def test_search_prints_what_pull_takes(shop: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vae", "search", "anime", "--base", "sd1"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "civitai:1@2"
    for text in ("Anime VAE, [bold]v2", "SD 1.5", "2 downloads", "3.0 MB", "commercial use: Image, Sell"):
        assert text in lines[1]
    assert "https://civitai.com/models/1?modelVersionId=2" in lines[2]
    assert "plain.jpeg" in lines[3]
    assert "\x1b" not in printed


def test_search_reports_as_json(shop: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vae", "search", "anime", "--json", "--limit", "1"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)
    assert (hit["target"], hit["family"], hit["size"]) == ("civitai:1@2", "sd1", 3_000_000)


def test_nothing_found_is_told(shop: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vae", "search", "anime", "--base", "flux2"]) == 0
    assert "nothing found" in capsys.readouterr().err
    assert main(["vae", "search", "anime", "--base", "flux2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("arguments", [["anime", "--base", "sd9"], ["anime", "--limit", "0"], []])
def test_search_refuses_what_it_cannot_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quiet", "vae", "search", *arguments]) == 2
    one_line(capsys)


def test_pull_does_not_import_torch(server: Server, tmp_path: Path) -> None:
    server.put("/vae.safetensors", VAE)
    arguments = ["vae", "pull", server.url + "/vae.safetensors", "--to", str(tmp_path / "out")]
    code = f"import sys; from vaekit.cli import main; print(main({arguments!r}), 'torch' in sys.modules)"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(downloading.__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert result.stdout.splitlines()[-1] == "0 False", result.stderr

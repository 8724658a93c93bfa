"""The hub: which file of a repository is its VAE, and getting it from a server that speaks as the hub does."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from catalog.server import Fault, Server, hub_repository, running, sha256
from checkpoints.making import in_diffusers_names, kl_state
from huggingface_hub import constants
from safetensors.torch import save

from vaekit.catalog import hub
from vaekit.catalog.hub import HubFile, HubTarget
from vaekit.catalog.web import AccessError, NetworkError
from vaekit.errors import FileError, NotAVAEError, OptionError, OutputError, VaekitError

REPO = "somebody/sd-vae"
CONFIG = b'{"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.18215}'
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def vae() -> bytes:
    return save(in_diffusers_names(kl_state()))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with running() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield started


def the_line(kind: type[VaekitError], target: HubTarget) -> str:
    with pytest.raises(kind) as caught:
        hub.find(target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a/b", HubTarget("a/b")),
        ("a/b/vae/x.safetensors", HubTarget("a/b", "vae/x.safetensors")),
        ("a/b@refs-1/x.pt", HubTarget("a/b", "x.pt", "refs-1")),
        ("stabilityai/sd-vae-ft-mse", HubTarget("stabilityai/sd-vae-ft-mse")),
    ],
)
def test_a_target_is_a_repository_a_revision_and_a_file(text: str, target: HubTarget) -> None:
    assert hub.parse(text) == target


@pytest.mark.parametrize(
    "text", ["", "a", "a/", "/b", "a/b/../c", "a b/c", "a/b@/c", "../../etc/passwd", "a/b/../../x"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="hf:OWNER/NAME"):
        hub.parse(text)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://huggingface.co/a/b", HubTarget("a/b")),
        ("https://huggingface.co/a/b/tree/main", HubTarget("a/b", None, "main")),
        ("https://huggingface.co/a/b/blob/main/v/x.safetensors", HubTarget("a/b", "v/x.safetensors", "main")),
        ("https://hf.co/a/b/resolve/main/x.pt?download=true", HubTarget("a/b", "x.pt", "main")),
        ("https://civitai.com/models/1", None),
        ("https://huggingface.co.evil.example/a/b", None),
    ],
)
def test_addresses_of_pages_are_targets_too(url: str, target: HubTarget | None) -> None:
    assert hub.parse_page(url) == target


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["config.json", WEIGHTS, "README.md"], ["config.json", WEIGHTS]),
        (["config.json", WEIGHTS, "sdxl_vae.safetensors"], ["config.json", WEIGHTS]),
        (["model_index.json", "vae/config.json", f"vae/{WEIGHTS}", "unet/x.safetensors"],
         ["vae/config.json", f"vae/{WEIGHTS}"]),
        (["model_index.json", "config.json", WEIGHTS], [WEIGHTS]),
        (["vae-ft-mse-840000-ema-pruned.ckpt", "vae-ft-mse-840000-ema-pruned.safetensors"],
         ["vae-ft-mse-840000-ema-pruned.safetensors"]),
        (["ae.safetensors", "flux1-schnell.safetensors"], ["ae.safetensors"]),
        (["only.ckpt", "x.txt"], ["only.ckpt"]),
        (["VAEs/a.vae.pt", "VAEs/b.vae.pt"], []),
        (["unet.safetensors", "text.safetensors"], []),
        (["config.json", "diffusion_pytorch_model.bin"], ["config.json", "diffusion_pytorch_model.bin"]),
        ([], []),
    ],
)  # fmt: skip
def test_the_vae_of_a_repository_is_chosen_by_its_files(files: list[str], chosen: list[str]) -> None:
    assert hub.choose(files) == chosen


def test_a_repository_gives_config_and_weights_with_hash_and_size(server: Server, vae: bytes) -> None:
    hub_repository(server, REPO, {"config.json": CONFIG, WEIGHTS: vae, "README.md": b"# hi"})
    config, weights = hub.find(HubTarget(REPO))
    assert (config.path, config.size) == ("config.json", len(CONFIG))
    assert weights == HubFile(REPO, WEIGHTS, None, sha256(vae), len(vae))


def test_weights_of_diffusers_come_with_the_configuration_beside_them(server: Server, vae: bytes) -> None:
    hub_repository(server, REPO, {"vae/config.json": CONFIG, f"vae/{WEIGHTS}": vae, "x.pt": b"x"})
    files = hub.find(HubTarget(REPO, f"vae/{WEIGHTS}"))
    assert [file.path for file in files] == ["vae/config.json", f"vae/{WEIGHTS}"]
    assert [file.path for file in hub.find(HubTarget(REPO, "x.pt"))] == ["x.pt"]


def test_a_file_is_fetched_and_checked(server: Server, vae: bytes, tmp_path: Path) -> None:
    hub_repository(server, REPO, {WEIGHTS: vae})
    seen: list[tuple[str, int, int | None]] = []
    target = tmp_path / "vae.safetensors"
    hub.fetch(HubFile(REPO, WEIGHTS, None, sha256(vae), len(vae)), target, progress=lambda *told: seen.append(told))
    assert target.read_bytes() == vae
    assert seen[-1] == (WEIGHTS, len(vae), len(vae))


def test_a_dropped_connection_is_gone_on_with(
    server: Server, vae: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub_repository(server, REPO, {WEIGHTS: vae})
    page = server.pages[f"/{REPO}/resolve/main/{WEIGHTS}"]
    page.faults.append(Fault(drop_after=len(vae) // 2))
    hub.fetch(HubFile(REPO, WEIGHTS, None, sha256(vae), len(vae)), tmp_path / "vae.safetensors")
    assert (tmp_path / "vae.safetensors").read_bytes() == vae
    assert len(server.asked_for(f"/{REPO}/resolve/main/{WEIGHTS}")) == 2
    assert capfd.readouterr() == ("", "")


def test_a_wrong_hash_is_refused(server: Server, vae: bytes, tmp_path: Path) -> None:
    hub_repository(server, REPO, {WEIGHTS: vae})
    with pytest.raises(FileError, match="SHA-256"):
        hub.fetch(HubFile(REPO, WEIGHTS, None, sha256(b"x"), None), tmp_path / "vae.safetensors")
    assert not [path for path in tmp_path.rglob("*.safetensors")]


def test_a_full_disk_is_noticed_before(
    server: Server, vae: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_repository(server, REPO, {WEIGHTS: vae})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(OutputError, match="too full"):
        hub.fetch(HubFile(REPO, WEIGHTS, None, sha256(vae), len(vae)), tmp_path / "vae.safetensors")
    assert server.asked == []


def test_what_the_hubs_cache_holds_is_taken_without_a_network(server: Server, vae: bytes, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    hub_repository(server, REPO, {WEIGHTS: vae})
    hf_hub_download(REPO, WEIGHTS, endpoint=server.url)
    server.close()
    file = HubFile(REPO, WEIGHTS, None, sha256(vae), len(vae))
    hub.fetch(file, tmp_path / "vae.safetensors")
    assert (tmp_path / "vae.safetensors").read_bytes() == vae
    assert not (tmp_path / "vae.safetensors").is_symlink()


def test_a_header_on_the_hub_tells_what_is_no_vae_before_it_is_fetched(server: Server, vae: bytes) -> None:
    lora = save({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 320)})
    hub_repository(server, REPO, {"vae.safetensors": vae, "lora.safetensors": lora, "old.ckpt": b"x"})
    hub.refuse_other(HubFile(REPO, "vae.safetensors"))
    hub.refuse_other(HubFile(REPO, "old.ckpt"))
    with pytest.raises(NotAVAEError, match=r"lora\.safetensors"):
        hub.refuse_other(HubFile(REPO, "lora.safetensors"))


def test_a_header_that_lies_is_one_line(server: Server) -> None:
    hub_repository(server, REPO, {"vae.safetensors": b"\xff" * 100})
    with pytest.raises(FileError, match="safetensors file that is none"):
        hub.refuse_other(HubFile(REPO, "vae.safetensors"))


# What goes wrong


def test_a_file_that_is_not_there_is_told_with_those_that_are(server: Server) -> None:
    hub_repository(server, REPO, {"a.safetensors": b"a", "b.ckpt": b"b"})
    line = the_line(FileError, HubTarget(REPO, "c.safetensors"))
    assert "'c.safetensors'" in line
    assert "a.safetensors, b.ckpt" in line


def test_several_vaes_are_told_by_name(server: Server) -> None:
    hub_repository(server, REPO, {"VAEs/a.vae.pt": b"a", "VAEs/b.vae.pt": b"b"})
    line = the_line(OptionError, HubTarget(REPO))
    assert f"hf:{REPO}/VAEs/a.vae.pt" in line
    assert "VAEs/b.vae.pt" in line
    hub_repository(server, REPO, {"README.md": b"a"})
    assert "no weights" in the_line(OptionError, HubTarget(REPO))


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (Fault(401, {"X-Error-Code": "RepoNotFound"}), AccessError, "no such repository, or a private one"),
        (Fault(404, {"X-Error-Code": "RepoNotFound"}), AccessError, "no such repository, or a private one"),
        (Fault(403, {"X-Error-Code": "GatedRepo"}), AccessError, "accept its licence"),
        (Fault(404, {"X-Error-Code": "RevisionNotFound"}), FileError, "no such revision"),
        (Fault(403), AccessError, "no access (403)"),
        (Fault(429, {"Retry-After": "1"}), NetworkError, "too many requests (429)"),
        (Fault(500), NetworkError, "answers 500"),
        (Fault(503, {"Retry-After": "1"}), NetworkError, "answers 503"),
        (Fault(drop_after=3), NetworkError, "broke off"),
    ],
)
def test_refusals_of_the_hub_are_one_line(
    server: Server, fault: Fault, kind: type[VaekitError], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    hub_repository(server, REPO, {"a.safetensors": b"a"})
    for page in server.pages.values():
        page.always = fault
    line = the_line(kind, HubTarget(REPO))
    assert told in line
    assert "hf_secret_value" not in line
    assert server.asked[0].headers["authorization"] == "Bearer hf_secret_value"


def test_a_name_that_the_hub_cannot_have_is_one_line(server: Server) -> None:
    assert "no name of a repository" in the_line(OptionError, HubTarget("a/b--c..d"))
    assert server.asked == []


def test_offline_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert "are you offline?" in the_line(NetworkError, HubTarget(REPO))


def test_the_hubs_own_offline_mode_is_told_by_its_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in the_line(NetworkError, HubTarget(REPO))
    assert server.asked == []


def test_a_fetch_without_connection_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(NetworkError, match="are you offline"):
            hub.fetch(HubFile(REPO, WEIGHTS, None, sha256(b"x"), None), tmp_path / "vae.safetensors")
    assert waited == []

"""Where programs keep models, and what a user names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from catalog.shelves import empty_home

from vaekit.catalog import Place, downloads_folder, places
from vaekit.errors import OptionError, VaekitError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path / "home", monkeypatch)


def make(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)


def roles(found: list[Place]) -> dict[Path, str]:
    return {place.folder: place.role for place in found}


def test_nothing_there_is_nowhere_to_look() -> None:
    assert places() == []


def test_installations_in_the_home_folder_are_found(home: Path) -> None:
    webui, comfyui, sdnext = home / "stable-diffusion-webui", home / "Documents" / "ComfyUI", home / "sdnext"
    expected = {
        webui / "models" / "VAE": "vae",
        webui / "models" / "Stable-diffusion": "checkpoints",
        comfyui / "models" / "vae": "vae",
        comfyui / "models" / "checkpoints": "checkpoints",
        sdnext / "models" / "VAE": "vae",
    }
    make(*expected, webui / "models" / "Lora", home / "other" / "models" / "VAE")
    assert roles(places()) == expected


def test_the_working_folder_may_be_an_installation(home: Path) -> None:
    make(home / "work" / "models" / "VAE")
    assert roles(places()) == {home / "work" / "models" / "VAE": "vae"}


def test_a_named_installation_gives_its_folders_and_any_other_folder_itself(tmp_path: Path) -> None:
    make(tmp_path / "forge" / "models" / "VAE", tmp_path / "forge" / "venv", tmp_path / "plain")
    found = places([tmp_path / "forge", tmp_path / "plain"])
    assert roles(found) == {tmp_path / "forge" / "models" / "VAE": "vae", tmp_path / "plain": "any"}


@pytest.mark.parametrize(
    ("inside", "role"),
    [
        ("VAE/x.pt", "vae"),
        ("a/vae/b/x.pt", "vae"),
        ("vae_approx/x.pt", "vae"),
        ("vae.pt", "any"),
        ("Stable-diffusion/x.safetensors", "any"),
        ("my-vae-notes/x.pt", "any"),
    ],
)
def test_in_any_folder_those_on_the_way_tell_what_a_file_is_for(inside: str, role: str) -> None:
    assert Place(Path("models"), "named").role_of(inside) == role


def test_the_environment_names_several_as_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "one", tmp_path / "two")
    named = [str(tmp_path / "one"), str(tmp_path / "gone"), "", str(tmp_path / "two")]
    monkeypatch.setenv("VAEKIT_MODELS", os.pathsep.join(named))
    assert [place.folder.name for place in places()] == ["one", "two"]
    assert "gone: no such folder" in caplog.text


@pytest.mark.parametrize("named", ["gone", "file.txt", "a\0b", "x" * 5000, "~nobody-at-all/models"])
def test_a_named_folder_that_is_not_there_is_an_error(named: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(OptionError):
        places([Path(named) if named.startswith("~") else tmp_path / named])


def test_fetched_vaes_are_looked_into() -> None:
    make(downloads_folder())
    assert roles(places()) == {downloads_folder(): "vae"}


# ComfyUI's extra_model_paths.yaml


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """An extra_model_paths.yaml in an installation of ComfyUI."""
    make(tmp_path / "ComfyUI" / "models" / "vae", tmp_path / "a" / "VAE", tmp_path / "b", tmp_path / "ckpt")
    return tmp_path / "ComfyUI" / "extra_model_paths.yaml"


def test_a_list_of_paths_is_read_as_comfyui_reads_it(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_MODELS", str(tmp_path))
    listed.write_text(
        f"""
a111:
    base_path: $MY_MODELS/a
    is_default: true
    vae: |
        VAE
        {tmp_path / "b"}
        not-there
    loras: models/Lora
comfyui:
    checkpoints: ../ckpt
empty:
"""
    )
    own = tmp_path / "ComfyUI" / "models" / "vae"
    expected = {own: "vae", tmp_path / "a" / "VAE": "vae", tmp_path / "b": "vae", tmp_path / "ckpt": "checkpoints"}
    found = {folder.resolve(): role for folder, role in roles(places([tmp_path / "ComfyUI"])).items()}
    assert found == expected
    assert len(places([listed])) == 3


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "a: &x [*x]\n", "\x00", "a:\n\tb: c", ""])
def test_a_broken_list_is_told_and_the_rest_goes_on(
    text: str, listed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed.write_text(text)
    assert [place.folder.name for place in places([tmp_path / "ComfyUI"])] == ["vae"]
    assert all("extra_model_paths.yaml" in record.message for record in caplog.records)


def test_the_line_of_a_mistake_in_a_list_is_told(listed: Path) -> None:
    listed.write_text("a:\n    base_path: x\n    vae: [\n")
    with pytest.raises(VaekitError, match=r"extra_model_paths.yaml:4: not valid YAML"):
        places([listed])


# SD.Next's settings


def set_in_sdnext(folder: Path, **settings: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))


def test_the_folders_that_sdnext_is_set_to_are_found(home: Path, tmp_path: Path) -> None:
    sdnext, disk = home / "sdnext", tmp_path / "disk"
    expected = {
        sdnext / "models" / "VAE": "vae",
        disk / "vaes": "vae",
        sdnext / "own" / "checkpoints": "checkpoints",
    }
    make(*expected)
    set_in_sdnext(sdnext, vae_dir=str(disk / "vaes"), ckpt_dir="own/checkpoints", diffusers_dir="", sd_vae="None")
    assert roles(places()) == expected
    assert roles(places([sdnext])) == expected


def test_all_of_sdnexts_models_may_be_elsewhere(tmp_path: Path) -> None:
    sdnext, disk = tmp_path / "sdnext", tmp_path / "disk"
    make(disk / "VAE", disk / "Stable-diffusion")
    set_in_sdnext(sdnext, models_dir=str(disk))
    assert roles(places([sdnext])) == {disk / "VAE": "vae", disk / "Stable-diffusion": "checkpoints"}


def test_a_folder_that_sdnext_is_set_to_already_comes_once(tmp_path: Path) -> None:
    make(tmp_path / "sdnext" / "models" / "VAE")
    set_in_sdnext(tmp_path / "sdnext", vae_dir="models/VAE", models_dir="models")
    assert [place.folder for place in places([tmp_path / "sdnext"])] == [tmp_path / "sdnext" / "models" / "VAE"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, '{"vae_dir": 1}', '{"vae_dir": ["x"]}', '{"vae_dir": "\\u0000"}', "\x00", ""]
)
def test_settings_of_another_kind_name_no_folders(text: str, tmp_path: Path) -> None:
    make(tmp_path / "sdnext" / "models" / "VAE")
    (tmp_path / "sdnext" / "config.json").write_text(text)
    assert [place.folder.name for place in places([tmp_path / "sdnext"])] == ["VAE"]


def test_a_folder_with_settings_that_name_no_models_is_looked_into_itself(tmp_path: Path) -> None:
    set_in_sdnext(tmp_path / "vae", _class_name="AutoencoderKL", scaling_factor=0.18215)
    assert roles(places([tmp_path / "vae"])) == {tmp_path / "vae": "any"}


# The hub's cache


@pytest.mark.parametrize("told_by", ["nothing", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"])
def test_the_hubs_cache_is_where_huggingface_hub_puts_it(
    told_by: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    if told_by != "nothing":
        monkeypatch.setenv(told_by, str(tmp_path / "set"))
    hub = {
        "nothing": home / ".cache" / "huggingface" / "hub",
        "HF_HOME": tmp_path / "set" / "hub",
        "HF_HUB_CACHE": tmp_path / "set",
        "XDG_CACHE_HOME": tmp_path / "set" / "huggingface" / "hub",
    }[told_by]
    snapshot = hub / "models--stabilityai--sd-vae-ft-mse" / "snapshots" / "31f26fd"
    make(snapshot, hub / "datasets--a--b" / "snapshots" / "1")
    (place,) = places()
    assert (place.folder, place.label) == (snapshot, "stabilityai/sd-vae-ft-mse")

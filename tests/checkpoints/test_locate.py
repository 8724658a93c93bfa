"""From what a user names to files, and what a configuration beside them may and may not say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.making import (
    in_diffusers_names,
    kl_state,
    numbered,
    save_diffusers,
    save_safetensors,
    save_shards,
    save_torch,
    tiny_state,
)

from vaekit.checkpoints.identify import Identity
from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.read import read
from vaekit.errors import FileError


def identity(config: Any, folder: Path) -> Identity:
    """What a diffusers folder with this config.json is taken for."""
    return inspect(save_diffusers(in_diffusers_names(kl_state()), folder, config))[0].identity


def refusal(path: Path, folder: Path | None = None) -> str:
    with pytest.raises(FileError) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert str(folder or path) in str(refused.value)
    return str(refused.value)


# Folders


@pytest.mark.parametrize("ending", [".safetensors", ".fp16.safetensors", ".bf16.safetensors"])
@pytest.mark.parametrize("named", ["folder", "pipeline", "file"])
def test_a_diffusers_vae_is_found_from_each_of_its_folders(ending: str, named: str, tmp_path: Path) -> None:
    state = kl_state()
    config = {"scaling_factor": 0.25}
    folder = save_diffusers(in_diffusers_names(state), tmp_path / "vae", config, ending=ending)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    path = {"folder": folder, "pipeline": tmp_path, "file": folder / f"diffusion_pytorch_model{ending}"}[named]
    weights = read(path)
    assert weights.state.keys() == state.keys()
    assert weights.identity.families[0].scaling_factor == 0.25


def test_the_full_precision_is_taken_before_its_copies(tmp_path: Path) -> None:
    for ending, dtype in ((".safetensors", torch.float32), (".fp16.safetensors", torch.float16)):
        state = {name: tensor.to(dtype) for name, tensor in kl_state().items()}
        save_diffusers(in_diffusers_names(state), tmp_path, {}, ending=ending)
    assert set(inspect(tmp_path)[0].dtypes) == {"F32"}


def test_a_diffusers_folder_with_a_pickle_is_read(tmp_path: Path) -> None:
    save_torch(in_diffusers_names(kl_state()), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert inspect(tmp_path)[0].container == "torch"


def test_a_diffusers_folder_of_shards_is_read(tmp_path: Path) -> None:
    save_shards(in_diffusers_names(kl_state()), tmp_path, stem="diffusion_pytorch_model")
    (tmp_path / "config.json").write_text('{"scaling_factor": 0.5}')
    assert read(tmp_path).state.keys() == kl_state().keys()
    assert read(tmp_path).identity.families[0].scaling_factor == 0.5


def test_a_folder_with_one_file_is_that_file_and_with_several_is_a_question(tmp_path: Path) -> None:
    save_safetensors(kl_state(), tmp_path / "a.safetensors")
    assert read(tmp_path).state.keys() == kl_state().keys()
    save_safetensors(kl_state(), tmp_path / "b.safetensors")
    assert "a.safetensors, b.safetensors" in refusal(tmp_path)


def test_an_index_beside_another_model_is_a_question(tmp_path: Path) -> None:
    save_shards(kl_state(), tmp_path)
    save_safetensors(kl_state(), tmp_path / "other.safetensors")
    assert "2 models" in refusal(tmp_path)


def test_the_folder_one_stands_in_is_as_good_as_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path / "vae", {})
    (tmp_path / "model_index.json").write_text('{"_class_name": "Nothing"}')
    (folder / "model_index.json").write_text("broken, and of no concern")
    monkeypatch.chdir(folder)
    assert read(Path(".")).state.keys() == kl_state().keys()


# TAESD's pairs


@pytest.mark.parametrize("names", [("taesd_encoder.pth", "taesd_decoder.pth"), ("encoder.safetensors",) * 2])
def test_a_pair_of_tiny_files_is_one_vae(names: tuple[str, str], tmp_path: Path) -> None:
    state = tiny_state()
    paths = []
    for half, name in zip(("encoder", "decoder"), names, strict=True):
        path = tmp_path / name.replace("encoder", half)
        save = save_torch if name.endswith("pth") else save_safetensors
        paths.append(save(numbered(state, half), path))
    from_folder, from_files = read(tmp_path), read(paths[0], decoder=paths[1])
    for weights in (from_folder, from_files):
        assert weights.identity.config.has_encoder
        assert weights.identity.config.has_decoder
        assert weights.state.keys() == state.keys()
        assert all(torch.equal(weights.state[name], state[name]) for name in state)
    assert len(inspect(tmp_path)) == 2


def test_two_pairs_in_a_folder_are_a_question(tmp_path: Path) -> None:
    for name in ("taesd", "taesdxl"):
        for half in ("encoder", "decoder"):
            save_torch(numbered(tiny_state(), half), tmp_path / f"{name}_{half}.pth")
    assert "4 models" in refusal(tmp_path)


# config.json

FAMILY = {"scaling_factor": 0.3, "shift_factor": -0.1, "latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}


def test_numbers_of_the_configuration_make_a_latent_space_of_its_own(tmp_path: Path) -> None:
    (found,) = identity(FAMILY, tmp_path).families
    assert (found.scaling_factor, found.shift_factor) == (0.3, -0.1)
    assert (found.mean, found.std) == ((0.1,) * 4, (2.0,) * 4)


@pytest.mark.parametrize("nested", [[[[0.1]], [[0.2]], [[0.3]], [[0.4]]], [[[[0.1]], [[0.2]], [[0.3]], [[0.4]]]]])
def test_nested_lists_of_numbers_are_flattened(nested: list[Any], tmp_path: Path) -> None:
    (found,) = identity({**FAMILY, "latents_mean": nested}, tmp_path).families
    assert found.mean == (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize("nothing", ["shift_factor", "scaling_factor", "norm_num_groups"])
def test_null_is_as_good_as_absent(nothing: str, tmp_path: Path) -> None:
    config = {key: value for key, value in FAMILY.items() if key in ("scaling_factor", "shift_factor")}
    absent = identity({key: value for key, value in config.items() if key != nothing}, tmp_path)
    assert identity({**config, nothing: None}, tmp_path) == absent


WRONG: list[tuple[str, Any]] = [
    *(("scaling_factor", value) for value in ("abc", 0, -0.18, True, [], {}, 1e-300, 1e300, 10**400)),
    *(("scaling_factor", value) for value in (float("nan"), float("inf"), [[[0.18215]]])),
    *(("shift_factor", value) for value in ("abc", False, float("nan"), [0], 10**400)),
    *(("latents_mean", value) for value in ([0.1] * 3, [], ["a"] * 4, "abcd", 0.1, [None] * 4, [True] * 4, None)),
    *(("latents_mean", value) for value in ([float("nan")] * 4, [[[[[0.1]]]]] * 4, {"a": 1})),
    *(("latents_std", value) for value in ([0] * 4, [-1.0] * 4, [1.0] * 5, None, 10**400)),
    *(("norm_num_groups", value) for value in (-3, 0, True, "32", 32.0, [], 7, 10**30)),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda value: f"{value!r:.20}")
def test_a_configuration_with_wrong_values_gives_one_line(key: str, value: object, tmp_path: Path) -> None:
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path, {**FAMILY, key: value})
    line = refusal(folder)
    assert "config.json" in line
    assert len(line) < 300 + len(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "1",
        "null",
        '"text"',
        "{",
        "",
        "{'a': 1}",
        "[" * 100_000,
        '{"scaling_factor": ' + "1" * 5000 + "}",
        '{"a": "\ud800"}',
    ],
    ids=lambda text: text[:12],
)
def test_a_configuration_that_is_none_gives_one_line(text: str, tmp_path: Path) -> None:
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path, {})
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "config.json" in refusal(folder)


def test_a_configuration_of_any_size_is_not_read(tmp_path: Path) -> None:
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path, {})
    os.truncate(folder / "config.json", 1 << 32)
    assert "too large" in refusal(folder)


def test_a_deeply_nested_value_gives_one_line(tmp_path: Path) -> None:
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path, {})
    for depth in range(5, 990, 15):  # up to what the reader of JSON itself refuses
        nested = "[" * depth + "]" * depth
        (folder / "config.json").write_text(f'{{"scaling_factor": 1, "latents_mean": {nested}}}')
        assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"_diffusers_version": "0." + "9" * 5000 + ".0"},
        {"_diffusers_version": ["0.1.0"]},
        {"_pipeline": ["StableDiffusion"]},
        {"_class_name": 3, "block_out_channels": "many", "sample_size": -1, "padding_mode": ["reflect"]},
    ],
)
def test_what_does_not_matter_in_a_configuration_may_be_anything(config: dict[str, Any], tmp_path: Path) -> None:
    assert identity(config, tmp_path).config.latent_channels == 4


def test_norm_groups_come_from_the_configuration(tmp_path: Path) -> None:
    assert identity({"norm_num_groups": 16}, tmp_path).config.norm_groups == 16
    assert identity({}, tmp_path).config.norm_groups == 32


def test_a_broken_model_index_gives_one_line(tmp_path: Path) -> None:
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path / "vae", {})
    (tmp_path / "model_index.json").write_text(json.dumps([1]))
    assert "model_index.json" in refusal(folder, tmp_path)

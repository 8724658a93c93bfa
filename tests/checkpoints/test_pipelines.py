"""Single checkpoints made of diffusers folders, read back by diffusers itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_KL, small_vae

import vaekit
from vaekit.checkpoints.bake import bake
from vaekit.checkpoints.pipelines import write_single_file
from vaekit.errors import FamilyError, FileError, NotAVAEError
from vaekit.networks.kl import KL
from vaekit.train.diffusion import DiffusionRecipe, TextNetwork, TextToLatents, train_tokenizer
from vaekit.train.export import write_folder
from vaekit.train.run import Phase

RECIPE = DiffusionRecipe(
    start="mini",
    phases=(Phase(steps=1, crops=((64, 1),)),),
    size=64,
    widths=(32, 64, 64),
    text=TextNetwork(tokens=16, width=32, layers=2, heads=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red apple", "a blue cat, flat"] * 4, 300, 16, path / "tokenizer")
    model = TextToLatents(RECIPE, tokenizer).half()
    model.unet.save_pretrained(path / "unet")
    model.text_encoder.save_pretrained(path / "text_encoder")
    return path


def test_diffusers_reads_the_same_networks_from_the_single_file(folder: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    written = write_single_file(folder, vaekit.loading.find("mini"), tmp_path / "one.safetensors")
    ours = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16).state_dict()
    theirs = UNet2DConditionModel.from_single_file(
        str(written.path), config=str(folder), subfolder="unet", torch_dtype=torch.float16
    ).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_baked_vae_is_found_with_its_own_fingerprint(folder: Path, tmp_path: Path) -> None:
    written = write_single_file(folder, vaekit.loading.find("mini"), tmp_path / "one.safetensors")
    found = vaekit.load(written.path)
    assert (found.family.name, found.fingerprint) == ("mini", vaekit.load("mini").fingerprint)
    (inspection,) = vaekit.inspect(written.path)
    assert inspection.to_dict()["baked"]
    assert [family.name for family in inspection.identity.families] == ["mini"]


def test_a_folder_without_a_unet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="config"):
        write_single_file(tmp_path, vaekit.loading.find("mini"), tmp_path / "one.safetensors")


def test_baking_into_a_diffusers_folder_makes_that_file(folder: Path, tmp_path: Path) -> None:
    mini = vaekit.loading.find("mini")
    plain = write_single_file(folder, mini, tmp_path / "plain.safetensors")
    baked = bake(folder, mini, tmp_path / "baked.safetensors")
    assert (baked.sha256, baked.replaced, baked.dtypes) == (plain.sha256, 0, {"F16": baked.written})
    wide = bake(folder, mini, tmp_path / "wide.safetensors", dtype=torch.float32)
    assert (wide.kept, wide.dtypes, wide.rounded) == (baked.kept, {"F32": baked.written}, 0)
    with pytest.raises(NotAVAEError, match="both halves"):
        bake(folder, vaekit.loading.find("mini-tiny"), tmp_path / "tiny.safetensors")
    torch.manual_seed(0)
    wrong = KL(replace(SMALL_KL, latent_channels=8)).half()
    write_folder(wrong, small_vae().family, tmp_path / "eight")
    with pytest.raises(FamilyError, match="4 channels"):
        bake(folder, tmp_path / "eight", tmp_path / "eight.safetensors")
    assert bake(folder, tmp_path / "eight", tmp_path / "eight.safetensors", any_family=True).written
    (folder / "text_encoder_2").mkdir()
    with pytest.raises(FileError, match="two text encoders"):
        bake(folder, mini, tmp_path / "two.safetensors")
    (folder / "text_encoder_2").rmdir()

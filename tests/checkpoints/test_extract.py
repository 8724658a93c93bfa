"""A VAE gets a file of its own, in any layout and dtype, and loses nothing on the way."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.making import (
    KL,
    TINY,
    half_of,
    in_diffusers_names,
    kl_state,
    numbered,
    save_diffusers,
    save_safetensors,
    save_shards,
    save_torch,
    tiny_state,
)
from checkpoints.whole import checkpoint, surroundings
from conftest import random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vaekit import assets
from vaekit.checkpoints.extract import Form, convert, extract
from vaekit.checkpoints.fingerprint import fingerprint
from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.layouts import Layout
from vaekit.checkpoints.read import read
from vaekit.errors import FamilyError, FileError, NotAVAEError, OptionError, OutputError, VaekitError
from vaekit.families import family
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig

FOLDED = KLConfig(4, (32, 32), (32, 64), 1, 2, patch_size=2)
BARE = KLConfig(16, (32, 64), (32, 64), 1, 2, quant_conv=False, post_quant_conv=False)
HALF = Form(dtype=torch.float16)
COUNTER = {"bn.num_batches_tracked": torch.tensor(41)}
NETWORKS: dict[str, tuple[NetworkConfig, Layout]] = {
    "kl": (KL, "ldm"),
    "without 1×1 convolutions": (BARE, "ldm"),
    "without attention": (replace(KL, encoder_attention=False, decoder_attention=False), "ldm"),
    "folded": (FOLDED, "flux"),
    "folded, top level": (FOLDED, "ldm"),
    "tiny": (TINY, "taesd"),
    "encoder alone": (KLConfig(4, (32, 32), (), 1, 0, decoder_attention=False, post_quant_conv=False), "ldm"),
    "decoder alone": (KLConfig(4, (), (32, 32), 0, 2, encoder_attention=False, quant_conv=False), "ldm"),
}


def state_of(config: NetworkConfig) -> dict[str, Tensor]:
    state = dict(random_state(config))
    return state | COUNTER if config == FOLDED else state


def vae_file(folder: Path, config: NetworkConfig = KL) -> Path:
    return save_safetensors(state_of(config), folder / "vae.safetensors")


def check(path: Path, state: dict[str, Tensor]) -> None:
    """Whether these very tensors are what vaekit reads there."""
    found = read(path).state
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("network", NETWORKS)
def test_from_one_layout_to_diffusers_and_back_is_the_same_file(network: str, tmp_path: Path) -> None:
    config, layout = NETWORKS[network]
    given_file = vae_file(tmp_path, config)
    there, via, back = (tmp_path / f"{name}.safetensors" for name in ("there", "via", "back"))
    convert(given_file, there, Form(layout))
    assert convert(there, via, Form("diffusers")).layout == "diffusers"
    assert convert(via, back, Form(layout)).layout == layout
    assert via.read_bytes() != there.read_bytes()
    assert back.read_bytes() == there.read_bytes()
    assert inspect(via)[0].identity.config == config


@settings(max_examples=15, deadline=None)
@given(
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]),
    seed=st.integers(0, 99),
)
def test_to_float32_and_back_is_the_same_file(
    dtype: torch.dtype, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("dtypes")
    given_file = save_safetensors({n: t.to(dtype) for n, t in kl_state(seed).items()}, folder / "a.safetensors")
    there, wide, back = (folder / f"{name}.safetensors" for name in ("there", "wide", "back"))
    convert(given_file, there)
    assert convert(there, wide, Form(dtype=torch.float32)).rounded == 0
    assert convert(wide, back, Form(dtype=dtype)).rounded == 0
    assert back.read_bytes() == there.read_bytes()


def test_fewer_digits_are_counted_and_values_rounded_to_nearest(tmp_path: Path) -> None:
    state = {name: tensor.half().float() for name, tensor in kl_state().items()}
    state["decoder.conv_out.bias"] = torch.tensor([0.1, 1 + 2**-11, 1 + 3 * 2**-11])
    done = convert(save_safetensors(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors", HALF)
    assert done.rounded == 1
    assert done.dtypes == {"F16": len(state)}
    expected = torch.tensor([0.0999755859375, 1.0, 1 + 2**-9], dtype=torch.float16)
    assert torch.equal(read(tmp_path / "b.safetensors").state["decoder.conv_out.bias"], expected)


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_a_weight_beyond_float16_is_refused_by_name_and_bfloat16_takes_it(value: float, tmp_path: Path) -> None:
    state = kl_state()
    state["decoder.conv_out.bias"][1] = value
    path = save_safetensors(state, tmp_path / "a.safetensors")
    with pytest.raises(OptionError, match=r"decoder\.conv_out\.bias holds .*float16 ends at 6\.55e\+04"):
        convert(path, tmp_path / "b.safetensors", HALF)
    assert not (tmp_path / "b.safetensors").exists()
    convert(path, tmp_path / "b.safetensors", Form(dtype=torch.bfloat16))


def test_the_largest_number_of_float16_is_no_overflow(tmp_path: Path) -> None:
    state = kl_state()
    state["decoder.conv_out.bias"][1] = 65504.0
    path = save_safetensors(state, tmp_path / "a.safetensors")
    convert(path, tmp_path / "b.safetensors", HALF)
    assert read(tmp_path / "b.safetensors").state["decoder.conv_out.bias"][1] == 65504


# Out of anything


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy", "shards"])
def test_a_baked_vae_comes_out_bit_for_bit_and_nothing_else(container: str, tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in kl_state().items()}
    others = surroundings()
    whole = {f"first_stage_model.{name}": tensor for name, tensor in state.items()} | others
    path = {
        "safetensors": lambda: save_safetensors(whole, tmp_path / "model.safetensors"),
        "zip": lambda: save_torch({"state_dict": whole, "epoch": 3}, tmp_path / "model.ckpt"),
        "legacy": lambda: save_torch(whole, tmp_path / "model.ckpt", legacy=True),
        "shards": lambda: save_shards(whole, tmp_path / "model"),
    }[container]()
    done = extract(path, tmp_path / "vae.safetensors")
    assert (done.layout, done.tensors, done.left) == ("ldm", len(state), len(others))
    found = load_file(tmp_path / "vae.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    check(tmp_path / "vae.safetensors", state)


@pytest.mark.parametrize("source", ["folder", "pipeline", "file", "two files"])
def test_a_vae_alone_can_be_extracted_too(source: str, tmp_path: Path) -> None:
    state, tiny = kl_state(), tiny_state()
    folder = save_diffusers(in_diffusers_names(state), tmp_path / "pipeline" / "vae", {"_class_name": "AutoencoderKL"})
    save_torch(numbered(tiny, "encoder"), tmp_path / "x_encoder.pth")
    save_torch(numbered(tiny, "decoder"), tmp_path / "x_decoder.pth")
    paths = {"folder": folder, "pipeline": folder.parent, "file": vae_file(folder.parent), "two files": tmp_path}
    extract(paths[source], tmp_path / "out" / "vae.safetensors")
    check(tmp_path / "out" / "vae.safetensors", tiny if source == "two files" else state)


def test_a_pickle_of_a_training_becomes_the_vae_alone(tmp_path: Path) -> None:
    state = kl_state()
    junk = {"loss.logvar": torch.full((1,), torch.nan), "model_ema.decay": torch.ones(())}
    path = save_torch({"state_dict": state | junk, "global_step": 5}, tmp_path / "vae.pt")
    assert convert(path, tmp_path / "vae.safetensors").left == 2
    assert load_file(tmp_path / "vae.safetensors").keys() == state.keys()


def test_convert_keeps_the_metadata_and_extract_leaves_those_of_the_checkpoint(tmp_path: Path) -> None:
    vae = save_safetensors(kl_state(), tmp_path / "vae.safetensors", {"modelspec.title": "mine", "format": "pt"})
    convert(vae, tmp_path / "a.safetensors")
    extract(checkpoint(tmp_path / "model.safetensors"), tmp_path / "b.safetensors")
    assert metadata(tmp_path / "a.safetensors") == {"modelspec.title": "mine", "format": "pt"}
    assert metadata(tmp_path / "b.safetensors") == {"format": "pt"}


def metadata(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_the_counter_of_a_batch_norm_travels_and_a_tensor_in_its_name_does_not(tmp_path: Path) -> None:
    path = vae_file(tmp_path, FOLDED)
    convert(path, tmp_path / "a.safetensors", Form("diffusers"))
    assert load_file(tmp_path / "a.safetensors")["bn.num_batches_tracked"] == 41
    large = {"bn.num_batches_tracked": torch.zeros(100, 100)}
    save_safetensors(state_of(FOLDED) | large, path)
    assert convert(path, tmp_path / "b.safetensors").left == 1


# The family


def test_a_family_that_was_said_is_still_known_by_the_vae_alone(tmp_path: Path) -> None:
    """mini's tensors could be mini-b's: their shapes are the same, as sd1's and sdxl's are."""
    state = dict(read(assets.model_folder("mini")).state)
    model = checkpoint(tmp_path / "model.safetensors", state)
    assert extract(model, tmp_path / "open.safetensors").family is None
    done = extract(model, tmp_path / "vae.safetensors", Form(family="mini"))
    assert done.family == "mini"
    identity = inspect(tmp_path / "vae.safetensors")[0].identity
    assert (identity.families[0].name, identity.evidence) == ("mini", "vaekit.family in its metadata")


@pytest.mark.parametrize("told", [True, False])
def test_a_tiny_vae_of_mini_may_have_any_width_where_its_file_tells_the_family(told: bool, tmp_path: Path) -> None:
    state = random_state(TinyConfig(4, 24, (1, 1, 1, 1), (1, 1, 1, 1)))
    path = save_safetensors(state, tmp_path / "tiny.safetensors", {"vaekit.family": "mini"} if told else None)
    names = {family.name for family in inspect(path)[0].identity.families}
    assert names == {"mini"} if told else "mini" not in names


def test_an_sdxl_vae_is_still_told_from_an_sd1_vae_after_extraction(tmp_path: Path) -> None:
    config = KLConfig(4, (128, 256, 512, 512), (128, 256, 512, 512))
    state = {f"first_stage_model.{name}": torch.zeros(shape).half() for name, shape in config.shapes().items()}
    around = {"conditioner.embedders.0.x": torch.ones(1)}
    path = save_safetensors(state | around, tmp_path / "model.safetensors")
    assert extract(path, tmp_path / "vae.safetensors").family == "sdxl"
    assert [f.name for f in inspect(tmp_path / "vae.safetensors")[0].identity.families] == ["sdxl"]


def test_a_family_that_the_user_names_is_kept_and_one_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="cannot be of sdxl: its family is mini"):
        extract(assets.model_folder("mini"), tmp_path / "a.safetensors", Form(family="sdxl"))
    with pytest.raises(FamilyError, match="cannot be of sd1: its family is none that vaekit knows"):
        extract(vae_file(tmp_path), tmp_path / "a.safetensors", Form(family="sd1"))
    with pytest.raises(FamilyError, match="did you mean"):
        extract(vae_file(tmp_path), tmp_path / "a.safetensors", Form(family="sd11"))
    assert extract(assets.model_folder("mini"), tmp_path / "a.safetensors", Form(family="mini")).family == "mini"


def test_what_a_single_file_cannot_tell_is_told_and_a_folder_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.7, "norm_num_groups": 16, "padding_mode": "reflect"}
    folder = save_diffusers(in_diffusers_names(kl_state()), tmp_path / "given", config)
    with caplog.at_level(logging.WARNING, "vaekit"):
        convert(folder, tmp_path / "a.safetensors")
    (told,) = caplog.messages
    assert "its scaling factor 0.7 and its reflect padding and its 16 norm groups" in told
    caplog.clear()
    convert(folder, tmp_path / "b", Form("diffusers"))
    assert not caplog.messages
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == config


# Folders that diffusers loads


def from_diffusers(kind: str, folder: Path) -> Any:
    """What diffusers makes of the folder; no tensor missing, left over or of another shape."""
    import diffusers

    model, told = getattr(diffusers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@pytest.mark.parametrize("source", ["mini", "checkpoint"])
def test_diffusers_loads_the_folder_and_decodes_the_same(source: str, tmp_path: Path) -> None:
    import vaekit

    mini = assets.model_folder("mini")
    given_path = mini
    if source == "checkpoint":
        given_path = checkpoint(tmp_path / "model.safetensors", dict(read(mini).state))
    extract(given_path, tmp_path / "vae", Form("diffusers", torch.float32, "mini"))
    theirs = from_diffusers("AutoencoderKL", tmp_path / "vae")
    ours = vaekit.load("mini", device="cpu", dtype="float32")
    assert theirs.config.scaling_factor == ours.family.scaling_factor
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        picture = theirs.decode(z / theirs.config.scaling_factor).sample
    assert torch.allclose(picture.clamp(-1, 1), ours.decode(z, output="tensor"), atol=1e-4)


def test_diffusers_reads_our_single_file_in_the_original_layout(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    mini = assets.model_folder("mini")
    extract(mini, tmp_path / "vae.safetensors", Form("ldm"))
    theirs = AutoencoderKL.from_single_file(str(tmp_path / "vae.safetensors"), config=str(mini))
    expected = AutoencoderKL.from_pretrained(mini).state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("config", "kind"),
    [(BARE, "AutoencoderKL"), (FOLDED, "AutoencoderKLFlux2"), (TINY, "AutoencoderTiny")],
    ids=["without 1×1 convolutions", "folded", "tiny"],
)
def test_diffusers_loads_folders_of_every_kind(config: NetworkConfig, kind: str, tmp_path: Path) -> None:
    from vaekit.checkpoints.arrange import arrange
    from vaekit.checkpoints.folder import diffusers_config, write_folder
    from vaekit.checkpoints.write import stored
    from vaekit.families import Family

    family = Family(name="x", latent_channels=16, downscale=2, scaling_factor=0.4, shift_factor=0.1)
    tensors = arrange(state_of(config), config, "diffusers")
    settings = diffusers_config(config, family)
    write_folder(tmp_path / "vae", settings, {name: stored(tensor) for name, tensor in tensors.items()})
    model = from_diffusers(kind, tmp_path / "vae")
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        name: tuple(t.shape) for name, t in tensors.items()
    }
    if config == BARE:
        assert (model.config.scaling_factor, model.config.shift_factor) == (0.4, 0.1)
    found = inspect(tmp_path / "vae")[0].identity
    assert (found.config, found.layout) == (config, "diffusers")


def test_latent_statistics_of_a_family_reach_the_configuration() -> None:
    from vaekit.checkpoints.folder import diffusers_config

    written = diffusers_config(KL, family("playground25"))
    assert written["latents_mean"] == [-1.6574, 1.886, -1.383, 2.5155]
    assert written["scaling_factor"] == 0.5
    assert "shift_factor" not in written


NO_FOLDER = {
    "half a VAE": half_of(kl_state(), "decoder"),
    "as many blocks in the decoder": random_state(replace(KL, decoder_blocks=1)),
    "a narrower decoder": random_state(replace(KL, decoder_channels=(32, 64))),
    "attention in one half": random_state(replace(KL, decoder_attention=False)),
    "pooled blocks": random_state(replace(TINY, width=16, encoder_pooled=True, decoder_pooled=True)),
}


@pytest.mark.parametrize("what", NO_FOLDER)
def test_a_network_that_diffusers_has_no_class_for_gets_no_folder(what: str, tmp_path: Path) -> None:
    path = save_safetensors(NO_FOLDER[what], tmp_path / "vae.safetensors")
    with pytest.raises(OptionError, match="diffusers has no class for it"):
        convert(path, tmp_path / "out", Form("diffusers"))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_known_scaling_factor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="--family"):
        convert(vae_file(tmp_path), tmp_path / "out", Form("diffusers"))


# What cannot be


@pytest.mark.parametrize(
    ("config", "layout"), [(KL, "flux"), (KL, "taesd"), (TINY, "ldm"), (TINY, "flux"), (KL, "nonsense")]
)
def test_a_layout_that_such_networks_do_not_have_is_refused(config: KLConfig, layout: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"not {layout}"):
        convert(vae_file(tmp_path, config), tmp_path / "out.safetensors", Form(layout))


REFUSED: dict[str, tuple[str, Form, type[VaekitError], str]] = {
    "a pickle's name": ("out.ckpt", Form(), OptionError, "name it out.safetensors"),
    "a folder in the ldm layout": ("out", Form("ldm"), OptionError, "name a .safetensors file, or a folder"),
    "a folder in no layout": ("out", Form(), OptionError, "name a .safetensors file, or a folder"),
    "an existing file": ("vae.safetensors", Form(), OutputError, "exists already; --force"),
    "a file in a file": ("vae.safetensors/x.safetensors", Form(), OutputError, "is not a folder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(what: str, tmp_path: Path) -> None:
    name, form, kind, words = REFUSED[what]
    vae_file(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for way in (extract, convert):
        with pytest.raises(kind) as refused:
            way(tmp_path / "no such source", tmp_path / name, form)
        assert words in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_folder_is_kept_without_force(tmp_path: Path) -> None:
    target = tmp_path / "vae"
    target.mkdir()
    (target / "config.json").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        extract(assets.model_folder("mini"), target, Form("diffusers"))
    assert [path.name for path in target.iterdir()] == ["config.json"]
    extract(assets.model_folder("mini"), target, Form("diffusers"), force=True)
    assert json.loads((target / "config.json").read_text())["scaling_factor"] == family("mini").scaling_factor


def test_a_checkpoint_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(NotAVAEError, match="vaekit extract"):
        convert(checkpoint(tmp_path / "model.safetensors"), tmp_path / "out.safetensors")


def test_a_broken_vae_is_not_written(tmp_path: Path) -> None:
    state = kl_state()
    state["decoder.conv_in.weight"][0] = torch.nan
    for bad in (state, {name: t for name, t in state.items() if name != "decoder.conv_out.bias"}):
        with pytest.raises(FileError):
            extract(save_safetensors(bad, tmp_path / "vae.safetensors"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_can_be_converted_in_place_with_force(tmp_path: Path) -> None:
    state = kl_state()
    path = vae_file(tmp_path)
    convert(path, path, HALF, force=True)
    check(path, {name: tensor.half() for name, tensor in state.items()})


def test_the_fingerprint_stays_through_layouts_and_exact_dtypes(tmp_path: Path) -> None:
    mini = assets.model_folder("mini")
    extract(mini, tmp_path / "a.safetensors", Form("ldm", torch.float32))
    assert fingerprint(read(tmp_path / "a.safetensors").state) == fingerprint(read(mini).state)

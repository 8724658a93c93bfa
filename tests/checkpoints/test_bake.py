"""A VAE goes into a checkpoint; everything else stays bit for bit, and little of it is ever in memory."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.making import (
    half_of,
    kl_state,
    raw_safetensors,
    save_diffusers,
    save_safetensors,
    save_shards,
    save_torch,
    tiny_state,
)
from checkpoints.whole import METADATA, PREFIX, checkpoint, in_diffusers_names, surroundings
from conftest import SMALL_KL, random_state
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vaekit import assets
from vaekit.checkpoints.bake import bake
from vaekit.checkpoints.extract import Form, extract
from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.read import read
from vaekit.errors import FamilyError, FileError, NotAVAEError, OptionError, OutputError, VaekitError

HEADERS = Path(__file__).parents[1] / "data" / "headers"
MIXED = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float32, torch.float64)
NEW = kl_state(1, SMALL_KL)


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, list[int], bytes]]:
    """What is stored, NaN or not."""
    return {n: (t.dtype, list(t.shape), t.reshape(-1).view(torch.uint8).numpy().tobytes()) for n, t in tensors.items()}


def vae_file(folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    return save_safetensors(NEW if state is None else state, folder / "vae.safetensors")


def split(path: Path, prefix: str = PREFIX) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint's VAE, by the short names, and its other tensors; read by the safetensors library alone."""
    found = load_file(path)
    inside = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    return inside, {name: tensor for name, tensor in found.items() if not name.startswith(prefix)}


def metadata(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_every_other_tensor_and_the_metadata_stay_bit_for_bit(tmp_path: Path) -> None:
    others = surroundings(MIXED)
    model = checkpoint(tmp_path / "model.safetensors", others=others)
    done = bake(model, vae_file(tmp_path), tmp_path / "out.safetensors")
    inside, kept = split(tmp_path / "out.safetensors")
    assert bits(kept) == bits(others)
    assert bits(inside) == bits(NEW)
    assert metadata(tmp_path / "out.safetensors") == METADATA
    assert (done.kept, done.written, done.replaced) == (len(others), len(NEW), len(NEW))
    assert len(others) == 897


def test_a_checkpoint_without_metadata_gets_none(tmp_path: Path) -> None:
    bake(checkpoint(tmp_path / "m.safetensors", metadata=None), vae_file(tmp_path), tmp_path / "out.safetensors")
    assert metadata(tmp_path / "out.safetensors") is None


def test_baking_the_own_vae_in_gives_the_same_file_and_back_again_after_another(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model.safetensors", others=surroundings(MIXED), metadata={"format": "pt"})
    own, other, back = (tmp_path / f"{name}.safetensors" for name in ("own", "other", "back"))
    extract(model, own, Form("diffusers"))
    bake(model, vae_file(tmp_path), other)
    bake(other, own, back)
    assert other.read_bytes() != model.read_bytes()
    assert back.read_bytes() == model.read_bytes()


def test_a_bundled_vae_works_out_of_the_checkpoint_as_it_does_alone(tmp_path: Path) -> None:
    import vaekit

    mini = dict(read(assets.model_folder("mini")).state)
    model = checkpoint(tmp_path / "model.safetensors", {name: t * 0.9 for name, t in mini.items()})
    bake(model, assets.model_folder("mini"), tmp_path / "out.safetensors")
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alone, baked = (vaekit.load(source, device="cpu") for source in ("mini", tmp_path / "out.safetensors"))
    assert baked.family.name == "mini"
    assert baked.fingerprint == alone.fingerprint
    assert torch.equal(baked.decode(z, output="tensor"), alone.decode(z, output="tensor"))


@pytest.mark.parametrize("container", ["zip", "legacy", "nested", "shards", "named safetensors"])
def test_checkpoints_of_other_containers_become_safetensors_and_lose_no_tensor(container: str, tmp_path: Path) -> None:
    others = surroundings(MIXED[:2])
    whole = others | {PREFIX + name: tensor for name, tensor in kl_state(0, SMALL_KL).items()}
    tied = {"model_ema.decay": others["model.diffusion_model.out.2.bias"]}
    make: dict[str, Callable[[], Path]] = {
        "zip": lambda: save_torch(whole | tied, tmp_path / "model.ckpt"),
        "legacy": lambda: save_torch(whole | tied, tmp_path / "model.pt", legacy=True),
        "nested": lambda: save_torch({"state_dict": whole, "optimizer": [1.0]}, tmp_path / "model.ckpt"),
        "shards": lambda: save_shards(whole, tmp_path / "model"),
        "named safetensors": lambda: save_torch(whole, tmp_path / "t.pt").rename(tmp_path / "model.safetensors"),
    }
    bake(make[container](), vae_file(tmp_path), tmp_path / "out.safetensors")
    inside, kept = split(tmp_path / "out.safetensors")
    assert bits(kept) == bits(others | (tied if container in ("zip", "legacy") else {}))
    assert bits(inside) == bits(NEW)
    assert metadata(tmp_path / "out.safetensors") == {"format": "pt"}


@pytest.mark.parametrize("container", ["folder", "pickle", "old names", "another checkpoint"])
def test_the_vae_comes_from_anywhere(container: str, tmp_path: Path) -> None:
    named = in_diffusers_names(NEW, old=container == "old names")
    path = {
        "folder": lambda: save_diffusers(named, tmp_path / "vae", {"norm_num_groups": 32}),
        "old names": lambda: save_safetensors(named, tmp_path / "vae.safetensors"),
        "pickle": lambda: save_torch({"state_dict": NEW | {"loss.logvar": torch.ones(1)}}, tmp_path / "vae.pt"),
        "another checkpoint": lambda: checkpoint(tmp_path / "other.ckpt", NEW),
    }[container]()
    model = checkpoint(tmp_path / "model.safetensors")
    bake(model, path, tmp_path / "out.safetensors")
    inside, kept = split(tmp_path / "out.safetensors")
    assert bits(inside) == bits(NEW)
    assert bits(kept) == bits(split(model)[1])


def test_the_checkpoint_keeps_its_own_names_and_shapes(tmp_path: Path) -> None:
    flat = {n: t[:, :, 0, 0] if ".attn_1." in n and t.ndim == 4 else t for n, t in kl_state(0, SMALL_KL).items()}
    bake(checkpoint(tmp_path / "m.safetensors", flat), vae_file(tmp_path), tmp_path / "flat.safetensors")
    inside = split(tmp_path / "flat.safetensors")[0]
    assert {n: t.shape for n, t in inside.items()} == {n: t.shape for n, t in flat.items()}
    assert read(tmp_path / "flat.safetensors").state.keys() == NEW.keys()

    old = in_diffusers_names(kl_state(0, SMALL_KL), old=True)
    whole = {f"vae.{name}": tensor for name, tensor in old.items()} | surroundings()
    model = save_safetensors(whole, tmp_path / "model.safetensors")
    done = bake(model, vae_file(tmp_path), tmp_path / "old.safetensors")
    assert (done.layout, done.prefix) == ("diffusers", "vae.")
    assert split(tmp_path / "old.safetensors", "vae.")[0].keys() == old.keys()
    check_vae(tmp_path / "old.safetensors")


def check_vae(path: Path, state: dict[str, Tensor] = NEW) -> None:
    found = read(path).state
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name].reshape(tensor.shape), tensor) for name, tensor in state.items())


def test_a_dtype_converts_the_vae_and_nothing_else(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model.safetensors", others=surroundings(MIXED))
    done = bake(model, vae_file(tmp_path), tmp_path / "out.safetensors", dtype=torch.float16)
    inside, kept = split(tmp_path / "out.safetensors")
    assert bits(inside) == bits({name: tensor.half() for name, tensor in NEW.items()})
    assert bits(kept) == bits(split(model)[1])
    assert done.dtypes == {"F16": len(NEW)}
    assert 0 < done.rounded <= len(NEW)


@pytest.mark.parametrize(
    ("around", "prefix"),
    [("cond_stage_model.x", "first_stage_model."), ("model.diffusion_model.double_blocks.0.img_mod.lin.bias", "vae.")],
)
def test_a_checkpoint_without_a_vae_gets_one_where_programs_look_for_it(
    around: str, prefix: str, tmp_path: Path
) -> None:
    others = {around: torch.ones(3), "model.diffusion_model.out.2.bias": torch.ones(4)}
    model = save_safetensors(others, tmp_path / "model.safetensors")
    done = bake(model, vae_file(tmp_path), tmp_path / "out.safetensors")
    inside, kept = split(tmp_path / "out.safetensors", prefix)
    assert bits(inside) == bits(NEW)
    assert bits(kept) == bits(others)
    assert (done.replaced, done.prefix, done.layout) == (0, prefix, "ldm")
    assert inspect(tmp_path / "out.safetensors")[0].identity.baked


def test_a_broken_vae_is_replaced_and_no_rest_of_it_stays(tmp_path: Path) -> None:
    broken = kl_state(0, SMALL_KL)
    del broken["decoder.conv_out.bias"]
    broken["encoder.conv_in.weight"][0] = torch.nan
    model = checkpoint(tmp_path / "model.safetensors", broken)
    bake(model, vae_file(tmp_path), tmp_path / "out.safetensors")
    assert bits(split(tmp_path / "out.safetensors")[0]) == bits(NEW)


def test_a_vae_of_other_widths_takes_the_place_and_no_tensor_of_the_old_stays(tmp_path: Path) -> None:
    wider = dict(random_state(replace(SMALL_KL, decoder_channels=(32, 64, 64, 64), decoder_blocks=2)))
    model = checkpoint(tmp_path / "model.safetensors")
    bake(model, vae_file(tmp_path, wider), tmp_path / "out.safetensors")
    assert bits(split(tmp_path / "out.safetensors")[0]) == bits(wider)


def test_an_existing_file_and_even_the_checkpoint_itself_are_replaced_with_force(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model.safetensors")
    before = split(model)[1]
    bake(model, vae_file(tmp_path), model, force=True)
    inside, kept = split(model)
    assert bits(inside) == bits(NEW)
    assert bits(kept) == bits(before)


# Families


def sparse(name: str, folder: Path) -> Path:
    """A published file, or diffusers folder, with a hole where its weights would be."""
    entry = json.loads((HEADERS / f"{name}.json").read_text())
    header, end = {}, 0
    for tensor, (dtype, shape) in entry["tensors"].items():
        start, end = end, end + math.prod(shape) * {"F32": 4, "F16": 2, "I32": 4, "I64": 8}[dtype]
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    folder.mkdir()
    path = raw_safetensors(header, b"", folder / entry["filename"])
    os.truncate(path, path.stat().st_size + end)
    if "config" in entry:
        (folder / "config.json").write_text(json.dumps(entry["config"]))
    return path


def test_a_vae_of_another_latent_space_is_refused_with_both_reasons(tmp_path: Path) -> None:
    model, vae = sparse("v1-5-pruned-emaonly", tmp_path / "sd1"), sparse("sdxl-vae-diffusers", tmp_path / "sdxl")
    with pytest.raises(FamilyError) as refused:
        bake(model, vae, tmp_path / "out.safetensors")
    line = str(refused.value)
    assert "of sdxl by scaling_factor 0.13025 in its config.json" in line
    assert "v1-5-pruned-emaonly.safetensors is of sd1 by" in line
    assert "--any-family" in line


def test_a_vae_of_another_latent_space_is_baked_if_it_is_meant(tmp_path: Path) -> None:
    mini = dict(read(assets.model_folder("mini")).state)
    model = checkpoint(tmp_path / "model.safetensors", mini)
    vae = tmp_path / "vae"
    extract(assets.model_folder("mini"), vae, Form("diffusers"))
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.3}))
    with pytest.raises(FamilyError, match="is of mini"):
        bake(model, vae, tmp_path / "out.safetensors")
    bake(model, vae, tmp_path / "out.safetensors", any_family=True)
    check_vae(tmp_path / "out.safetensors", mini)


def test_a_vae_that_has_nothing_in_common_with_the_old_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """sd1 and sdxl have the same tensors: where nothing tells, strange weights are the only sign."""
    old = kl_state(0, SMALL_KL)
    tuned = {name: tensor * 1.01 for name, tensor in old.items()}
    strange = {name: -tensor for name, tensor in old.items()}
    model = checkpoint(tmp_path / "model.safetensors", old)
    with caplog.at_level(logging.WARNING, "vaekit"):
        bake(model, vae_file(tmp_path, tuned), tmp_path / "out.safetensors")
        assert not caplog.messages
        bake(model, vae_file(tmp_path, strange), tmp_path / "out.safetensors", force=True)
    assert "nothing in common" in caplog.messages[0]


def test_what_a_checkpoint_cannot_tell_of_its_vae_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = in_diffusers_names(NEW)
    vae = save_diffusers(named, tmp_path / "vae", {"padding_mode": "reflect", "norm_num_groups": 32})
    with caplog.at_level(logging.WARNING, "vaekit"):
        bake(checkpoint(tmp_path / "model.safetensors", {}), vae, tmp_path / "out.safetensors")
    assert "reflect padding" in caplog.messages[0]


# What cannot be


def no_checkpoint(what: str, folder: Path) -> Path:
    state = {
        "a VAE alone": NEW,
        "a LoRA": {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2, 2)},
        "a UNet alone": {"input_blocks.0.0.weight": torch.ones(2)},
        "nothing": {"x": torch.ones(1)},
    }[what]
    return save_safetensors(state, folder / "model.safetensors")


@pytest.mark.parametrize("what", ["a VAE alone", "a LoRA", "a UNet alone", "nothing"])
def test_what_is_no_checkpoint_gets_no_vae(what: str, tmp_path: Path) -> None:
    with pytest.raises(NotAVAEError, match="no checkpoint to bake"):
        bake(no_checkpoint(what, tmp_path), vae_file(tmp_path), tmp_path / "out.safetensors")


def test_a_pipeline_is_told_how_it_gets_its_vae(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    extract(assets.model_folder("mini"), tmp_path / "pipeline" / "vae", Form("diffusers"))
    with pytest.raises(NotAVAEError, match="vaekit convert VAE -o PIPELINE/vae"):
        bake(tmp_path / "pipeline", assets.model_folder("mini"), tmp_path / "out.safetensors")


def bad_vae(what: str, folder: Path) -> Path:
    nan = {name: tensor.clone() for name, tensor in NEW.items()}
    nan["decoder.conv_in.bias"][0] = torch.nan
    large = {name: tensor.clone() for name, tensor in NEW.items()}
    large["decoder.conv_in.bias"][0] = 1e5
    states: dict[str, dict[str, Tensor]] = {
        "tiny": tiny_state(),
        "encoder alone": half_of(NEW, "encoder"),
        "decoder alone": half_of(NEW, "decoder"),
        "NaN": nan,
        "beyond float16": large,
        "a text encoder": {"text_model.x": torch.ones(1)},
    }
    return save_safetensors(states[what], folder / "vae.safetensors")


BAD_VAES: dict[str, tuple[type[VaekitError], str]] = {
    "tiny": (NotAVAEError, "tiny autoencoder"),
    "encoder alone": (NotAVAEError, "half a VAE"),
    "decoder alone": (NotAVAEError, "half a VAE"),
    "NaN": (FileError, "NaN or infinite"),
    "beyond float16": (OptionError, "float16 ends at"),
    "a text encoder": (NotAVAEError, "text encoder"),
}


@pytest.mark.parametrize("what", BAD_VAES)
def test_a_vae_that_would_not_work_is_refused_and_nothing_is_written(what: str, tmp_path: Path) -> None:
    kind, words = BAD_VAES[what]
    model, vae = checkpoint(tmp_path / "model.safetensors"), bad_vae(what, tmp_path)
    with pytest.raises(kind, match=words):
        bake(model, vae, tmp_path / "out" / "x.safetensors", dtype=torch.float16)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "kind"),
    [("out.ckpt", OptionError), ("model.safetensors", OutputError), ("model.safetensors/x.safetensors", OutputError)],
)
def test_an_output_that_cannot_be_is_refused_first(output: str, kind: type[VaekitError], tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model.safetensors")
    before = model.read_bytes()
    with pytest.raises(kind):
        bake(model, tmp_path / "no such VAE", tmp_path / output)
    assert model.read_bytes() == before


def test_a_checkpoint_that_is_still_being_downloaded_is_refused(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model.safetensors")
    os.truncate(model, model.stat().st_size - 100)
    with pytest.raises(FileError, match="truncated"):
        bake(model, vae_file(tmp_path), tmp_path / "out.safetensors")


def test_a_checkpoint_that_shrinks_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    model, out = checkpoint(tmp_path / "model.safetensors"), tmp_path / "out"
    seen = []

    def shrink(done: int, total: int) -> None:
        if not seen:
            os.truncate(model, 200_000)
        seen.append(done)

    with pytest.raises(FileError, match="became shorter"):
        bake(model, vae_file(tmp_path), out / "x.safetensors", progress=shrink)
    assert list(out.iterdir()) == []


# Memory


MEASURE = """
import re, sys
from pathlib import Path
from vaekit.checkpoints import pickles
from vaekit.checkpoints.bake import bake
pickles.MOST_MAPPED = 16 << 20
small, large, vae, out = (Path(name) for name in sys.argv[1:])
def peak(path):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    bake(path, vae, out, force=True)
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak(small)
print(peak(large) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("container", ["safetensors", "zip"])
def test_memory_does_not_grow_with_the_checkpoint(container: str, tmp_path: Path) -> None:
    def make(name: str, blocks: int) -> Path:
        others = surroundings() | {f"model.diffusion_model.large.{i}": torch.ones(2, 1 << 20) for i in range(blocks)}
        if container == "safetensors":
            return checkpoint(tmp_path / f"{name}.safetensors", others=others)
        whole = others | {PREFIX + n: t for n, t in kl_state(0, SMALL_KL).items()}
        return save_torch(whole, tmp_path / f"{name}.ckpt")

    files = [make("small", 3), make("large", 15), vae_file(tmp_path), tmp_path / "out.safetensors"]
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 40, "megabytes more, for a checkpoint that is 96 MB larger"

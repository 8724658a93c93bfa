"""Checkpoints of every layout become the same networks, and hostile or foreign ones one clear line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from generate.models import write_file, write_folder
from safetensors.torch import load_file, save_file

from vaekit.checkpoints.pipelines import shape_of_unet, unet_name
from vaekit.checkpoints.sources import TensorInfo
from vaekit.checkpoints.texts import find_texts, place_of
from vaekit.errors import FileError, NetworkError, OptionError, UnsafeFileError
from vaekit.generate.architectures import clip_tokenizer, published
from vaekit.generate.models import UNET, _text, _unet, load_model
from vaekit.generate.painter import Painter

HEADERS = Path(__file__).parent.parent / "data" / "headers"
PUBLISHED = {"sd1": "v1-5-pruned-emaonly", "sd2": "v2-1_768-ema-pruned", "sdxl": "sd_xl_base_1.0-thinned"}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_a_published_model_has_its_place_in_the_published_file(name: str) -> None:
    told = json.loads((HEADERS / f"{PUBLISHED[name]}.json").read_text())["tensors"]
    there = {key: TensorInfo(dtype, tuple(shape)) for key, (dtype, shape) in told.items()}
    architecture = published(name)
    with torch.device("meta"):
        unet = _unet(architecture)
        texts = [_text(architecture, number) for number in range(len(architecture.texts))]
    shape = shape_of_unet(unet.config)  # type: ignore[arg-type]
    places = {UNET + unet_name(key, *shape): value for key, value in unet.state_dict().items()}
    if "thinned" not in PUBLISHED[name]:  # which keeps a few layers of many
        assert {key for key in there if key.startswith(UNET)} == set(places)
    checked = 0
    for key, value in places.items():
        if key in there:
            assert torch.Size(there[key].shape).numel() == value.numel(), key
            checked += 1
    assert checked > 100
    prefixes = find_texts(there)
    assert len(prefixes) == len(texts)
    for prefix, text in zip(prefixes, texts, strict=True):
        found = 0
        for key, value in text.state_dict().items():
            try:
                place = place_of(key, prefix, there)
            except FileError:
                assert "thinned" in PUBLISHED[name]
                continue
            size = torch.Size(there[place.name].shape).numel()
            assert size == value.numel() * (1 if place.third is None else 3), key
            found += 1
        assert found > 10


def test_clips_tokenizer_gives_clips_numbers() -> None:
    tokenizer = clip_tokenizer("<|endoftext|>")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49408
    assert tokenizer.pad_token_id == 49407
    assert clip_tokenizer("!").pad_token_id == 0


def test_folder_and_single_file_hold_the_same_networks(folder: Path, single: Path) -> None:
    a = load_model(folder, device="cpu")
    b = load_model(single, config=folder, device="cpu")
    assert same(a.unet, b.unet)
    assert same(a.texts[0], b.texts[0])
    assert a.scheduler["prediction_type"] == b.scheduler["prediction_type"] == "v_prediction"


def test_a_pickled_checkpoint_is_read_without_running_it(folder: Path, single: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.ckpt"
    torch.save({"state_dict": load_file(single), "global_step": 7}, path)
    assert same(load_model(path, config=folder, device="cpu").unet, load_model(folder, device="cpu").unet)


def test_a_pickle_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises((UnsafeFileError, FileError)):
        load_model(path, device="cpu")


def test_an_unknown_unet_asks_for_its_configuration(single: Path) -> None:
    with pytest.raises(FileError, match="--config FOLDER"):
        load_model(single, device="cpu")


def test_a_configuration_of_another_model_is_refused(single: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other")
    config = json.loads((other / "unet" / "config.json").read_text())
    config["block_out_channels"] = [32, 64, 96]
    (other / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileError, match="another model"):
        load_model(single, config=other, device="cpu")


def test_a_folder_with_parts_missing_or_broken_is_one_line(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other")
    (other / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileError, match="no weights"):
        load_model(other, device="cpu")
    (other / "unet" / "config.json").write_text("{")
    with pytest.raises(FileError, match="JSON"):
        load_model(other, device="cpu")
    with pytest.raises(FileError, match="text_encoder"):
        load_model(tmp_path, device="cpu")


def test_a_pipeline_of_another_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text()) | {"_class_name": "FluxPipeline"}
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match="FluxPipeline"):
        load_model(other, device="cpu")


def test_prediction_is_told_by_the_file_or_asked(folder: Path, single: Path, tmp_path: Path) -> None:
    tensors = load_file(single)
    plain = tmp_path / "plain.safetensors"
    save_file(tensors, plain)
    (tmp_path / "config").symlink_to(folder)
    eps = write_folder(tmp_path / "eps", prediction="epsilon")
    assert load_model(plain, config=eps, device="cpu").scheduler["prediction_type"] == "epsilon"
    assert load_model(plain, config=eps, prediction="v", device="cpu").scheduler["prediction_type"] == "v_prediction"
    marked = tmp_path / "marked.safetensors"
    save_file(tensors | {"v_pred": torch.zeros(1)}, marked)
    assert load_model(marked, config=eps, device="cpu").scheduler["prediction_type"] == "v_prediction"
    with pytest.raises(OptionError, match="prediction"):
        load_model(plain, config=eps, prediction="x0", device="cpu")


def test_a_configuration_beside_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="config"):
        load_model(folder, config=folder, device="cpu")


def test_a_unet_of_other_inputs_is_refused(tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other")
    config = json.loads((other / "unet" / "config.json").read_text()) | {"in_channels": 8}
    (other / "unet" / "config.json").write_text(json.dumps(config))
    path = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"] = torch.zeros(32, 8, 3, 3)
    save_file(tensors, path)
    with pytest.raises(FileError, match="8 channels"):
        load_model(other, device="cpu")


def test_a_repository_of_the_hub_is_one_line_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="offline"):
        Painter.open("owner/model")


def test_a_name_that_nothing_has_is_told_with_its_neighbours() -> None:
    with pytest.raises(OptionError, match="no checkpoint is called"):
        Painter.open("nothing-of-that-name")


def test_half_of_a_text_encoder_is_told_by_the_name_of_what_is_missing(
    folder: Path, single: Path, tmp_path: Path
) -> None:
    tensors = load_file(single)
    gone = next(name for name in tensors if "layers.1.mlp.fc1.weight" in name)
    del tensors[gone]
    path = tmp_path / "half.safetensors"
    save_file(tensors, path)
    with pytest.raises(FileError, match=r"mlp\.fc1\.weight"):
        load_model(path, config=folder, device="cpu")


def test_the_file_is_the_one_that_write_single_file_writes(folder: Path, single: Path, tmp_path: Path) -> None:
    assert write_file(folder, tmp_path / "again.safetensors").read_bytes() == single.read_bytes()

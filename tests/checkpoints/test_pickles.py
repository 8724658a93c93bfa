"""A pickle never runs code: what is hostile is refused by name, what trainers leave beside the weights is not."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.making import CONTAINERS, kl_state, legacy_of, save_torch, zip_of

from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.read import read
from vaekit.errors import FileError, UnsafeFileError

containers = pytest.mark.parametrize("container", CONTAINERS)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def write(content: bytes, folder: Path, container: str = "bare") -> Path:
    path = folder / "model.ckpt"
    path.write_bytes(CONTAINERS[container](content))
    return path


def refusal(path: Path, kind: type[FileError] = FileError) -> str:
    """The one line that reading and inspecting this file give."""
    with pytest.raises(kind) as reading:
        read(path)
    with pytest.raises(kind) as inspecting:
        inspect(path)
    assert str(reading.value) == str(inspecting.value)
    assert "\n" not in str(reading.value)
    assert str(path) in str(reading.value)
    return str(reading.value)


@containers
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("way", ["system", "eval", "Popen", "nested"])
def test_code_in_a_pickle_is_refused_by_name_and_does_not_run(
    way: str, protocol: int, container: str, tmp_path: Path
) -> None:
    marker = tmp_path / "it-ran"
    python = f"open({str(marker)!r}, 'w')"
    payload = {
        "system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, python),
        "Popen": Calls(subprocess.Popen, ["touch", str(marker)]),
        "nested": {"state_dict": [Calls(collections.OrderedDict, Calls(eval, python))]},
    }[way]
    path = write(pickle.dumps(payload, protocol), tmp_path, container)
    assert {"nested": "eval"}.get(way, way) in refusal(path, UnsafeFileError)
    assert not marker.exists()


@containers
@pytest.mark.parametrize(
    "name",
    [
        "torch.load",
        "torch.hub.load",
        "torch.serialization.load",
        "torch.jit.unsupported_tensor_ops.execWrapper",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch.nn.Module",
        "numpy.testing._private.utils.runstring",
        "builtins.getattr",
        "collections.OrderedDict.fromkeys",
        "torch.FloatStorage.from_file",
    ],
)
def test_a_function_of_a_trusted_library_is_refused_by_name(name: str, container: str, tmp_path: Path) -> None:
    module, _, function = name.rpartition(".")
    pickled = b"\x80\x02" + f"c{module}\n{function}\n)R.".encode()
    assert repr(name) in refusal(write(pickled, tmp_path, container), UnsafeFileError)


@containers
def test_a_name_that_is_put_together_on_the_stack_is_found(container: str, tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    hidden = text("posix") + b"\x94" + text("system") + b"\x94" + text("collections") + text("OrderedDict") + b"00"
    pickled = b"\x80\x04" + b"0".join([hidden, b"h\x01h\x000h\x00h\x01\x93)R."])
    assert "'posix.system'" in refusal(write(pickled, tmp_path, container), UnsafeFileError)


def test_a_number_of_the_extension_registry_is_refused(tmp_path: Path) -> None:
    assert "extension 7" in refusal(write(b"\x80\x02\x82\x07)R.", tmp_path, "zip"), UnsafeFileError)


def test_hostile_code_in_each_pickle_of_a_legacy_file_is_found(tmp_path: Path) -> None:
    sound = legacy_of(pickle.dumps({}, 2))
    hostile = pickle.dumps(Calls(os.system, "false"), 2)
    starts = [0, *(i + 1 for i in range(len(sound)) if _is_stop(sound, i))][:5]
    for start in starts:
        assert "system" in refusal(write(sound[:start] + hostile + sound[start:], tmp_path), UnsafeFileError)


def _is_stop(content: bytes, index: int) -> bool:
    return content[index : index + 1] == b"." and content[index + 1 : index + 3] in (b"\x80\x02", b"")


def test_a_pickle_with_a_zip_archive_behind_it_is_read_as_the_pickle(tmp_path: Path) -> None:
    hostile = legacy_of(b"\x80\x02ctorch._utils\n_rebuild_qtensor\n)R.")
    path = write(hostile + zip_of(pickle.dumps({}, 2)), tmp_path)
    assert "_rebuild_qtensor" in refusal(path, UnsafeFileError)


@pytest.mark.parametrize("second", ["archive/data.pkl", "other/data.pkl", "archive/DATA.PKL"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_pickles_is_refused(second: str, tmp_path: Path) -> None:
    harmless, hostile = pickle.dumps({}, 2), pickle.dumps(Calls(os.system, "false"), 2)
    path = tmp_path / "model.ckpt"
    path.write_bytes(zip_of(harmless, hostile, names=("archive/data.pkl", second)))
    assert "2 data.pkl" in refusal(path)


def test_a_zip_of_something_else_or_compressed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(zip_of(b"x", names=("readme.txt",)))
    assert "0 data.pkl" in refusal(path)
    path.write_bytes(zip_of(pickle.dumps({}, 2), compressed=True))
    assert "compressed" in refusal(path)


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "decoder.pt"
    path.write_bytes(zip_of(b"N.", b"N.", names=("archive/constants.pkl", "archive/data.pkl")))
    assert "TorchScript" in refusal(path)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.filterwarnings("error")
def test_a_sound_file_of_a_newer_pickle_protocol_is_told_from_a_broken_one(protocol: int, tmp_path: Path) -> None:
    torch.save(kl_state(), tmp_path / "model.pt", pickle_protocol=protocol)
    assert "save it anew" in refusal(tmp_path / "model.pt")


# Pickles that would hang, or take all memory

START = b"\x80\x02"


def pickled_bombs() -> dict[str, bytes]:
    tuples = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))  # each holds the last twice
    lists = b"".join(b"]q%c" % i for i in range(60)) + b"".join(b"h%c(h%ch%ce" % (i, i + 1, i + 1) for i in range(59))
    multiples = (i * (2**61 - 1) for i in range(1, 50_000))
    colliding = b"".join(b"\x8a\x10" + number.to_bytes(16, "little") + b"N" for number in multiples)
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"q\x00"
    return {
        "doubled tuples as a key": START + tuples + b"}h\x3cNs.",
        "doubled tuples in a set": START + tuples + b"cbuiltins\nset\n](h\x3ce\x85R.",
        "doubled lists that an error message would print": START + lists + b"h\x00)R.",
        "tuples so deep that hashing can overflow the stack": START + b"})" + b"\x85" * 50_000 + b"Ns.",
        "keys that all collide": START + b"}(" + colliding + b"u.",
        "a list that holds itself": START + b"]q\x00h\x00a.",
        "a long text many times over": START + text + b"](" + b"h\x00" * 200_000 + b"e.",
    }


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("bomb", pickled_bombs())
def test_a_pickle_bomb_is_refused_quickly(bomb: str, container: str, tmp_path: Path) -> None:
    path = write(pickled_bombs()[bomb], tmp_path, container)
    start = time.monotonic()
    with pytest.raises(FileError, match=r"beyond reason|holds itself"):
        read(path)
    assert time.monotonic() - start < 5


def test_the_names_of_a_bomb_are_told_first(tmp_path: Path) -> None:
    bomb = b"\x80\x02cposix\nsystem\n0" + pickled_bombs()["tuples so deep that hashing can overflow the stack"][2:]
    assert "posix.system" in refusal(write(bomb, tmp_path, "zip"), UnsafeFileError)


def test_a_pickle_of_endless_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with path.open("wb") as file:
        file.write(b"\x80\x02V")  # a text that ends at the next line break, which never comes
        file.truncate(4 << 30)
    assert "truncated" in refusal(path)


def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    state = kl_state()
    state["decoder.conv_in.weight"] = torch.ones(1).expand(32, 4, 3, 3)
    path = save_torch(state, tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"'decoder\.conv_in\.weight' claims \[32, 4, 3, 3\]"):
        read(path)


# What is allowed


class Dressed:
    """Pickles as an OrderedDict with attributes of that name."""

    def __init__(self, items: dict[str, Any], attributes: dict[str, Any]):
        self.made = (collections.OrderedDict, (), attributes, None, iter(items.items()))

    def __reduce__(self) -> Any:
        return self.made


def test_state_built_onto_an_allowed_class_does_not_hide_its_methods(tmp_path: Path) -> None:
    state = kl_state()
    dressed = Dressed(state, {"items": 1, "get": 2, "keys": 3, "_metadata": {"": {"version": 1}}})
    assert len(read(save_torch(dressed, tmp_path / "model.ckpt")).state) == len(state)


@pytest.mark.parametrize("build", [b"}X\x01\x00\x00\x00aK\x01sb", b"(K\x01K\x02tb", b"Nb", b"(tb"])
@pytest.mark.parametrize(
    "target", ["torch.Size", "collections.OrderedDict", "torch.nn.parameter.Parameter", "torch.FloatStorage"]
)
def test_state_built_onto_other_allowed_classes_is_refused(target: str, build: bytes, tmp_path: Path) -> None:
    module, _, name = target.rpartition(".")
    for made in (b")R", b")\x81", b""):
        pickled = b"\x80\x02" + f"c{module}\n{name}\n".encode() + made + build + b"."
        refusal(write(pickled, tmp_path, "zip"))


class ModelCheckpoint:
    """Named like Lightning's callback, whose class stands as a key in the checkpoints of its time."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.mark.parametrize("legacy", [False, True])
def test_what_lightning_leaves_beside_the_weights_is_let_through_and_does_nothing(legacy: bool, tmp_path: Path) -> None:
    content = {
        "epoch": 3,
        "state_dict": kl_state(),
        "callbacks": {"MODELCHECKPOINT": {"best": np.float64(0.25), "array": np.arange(3)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0), "betas": (0.9, 0.999)}}}],
    }
    path = save_torch(content, tmp_path / "model.ckpt", legacy=legacy)
    _replace(path, b"XMODELCHECKPOINT", b"MODELCHECKPOINT", legacy)
    assert read(path).state.keys() == kl_state().keys()


def _replace(path: Path, text: bytes, key: bytes, legacy: bool) -> None:
    """Put the class itself where its stand-in text is."""
    global_op = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    placeholder = b"X" + struct.pack("<I", len(key)) + key
    if legacy:
        content = path.read_bytes()
        assert content.count(placeholder) == 1
        path.write_bytes(content.replace(placeholder, global_op))
        return
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            assert content.count(placeholder) == name.endswith("data.pkl")
            archive.writestr(name, content.replace(placeholder, global_op))


def test_the_stand_in_for_trainers_objects_keeps_nothing() -> None:
    from vaekit.checkpoints.pickles import Inert

    made = Inert(1, key=2)
    made.__setstate__({"a": 1})
    assert vars(made) == {}


def test_shared_tensors_and_shared_settings_are_no_bomb(tmp_path: Path) -> None:
    shared = (0.9, 0.999)
    state = kl_state()
    groups = [{"betas": shared, "params": [i], "weight": state["quant_conv.bias"]} for i in range(5000)]
    path = save_torch({"state_dict": state, "param_groups": groups}, tmp_path / "model.ckpt")
    assert len(read(path).state) == len(state)


def test_bytes_after_a_bare_pickle_are_no_harm(tmp_path: Path) -> None:
    file = io.BytesIO(pickle.dumps({}, 2) + bytes(100))
    refusal(write(file.getvalue(), tmp_path))

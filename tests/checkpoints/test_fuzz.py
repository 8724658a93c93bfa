"""Any bytes give a VAE or one clear line: never another exception, never a hang."""

from __future__ import annotations

import io
import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.making import CONTAINERS, entry, in_diffusers_names, kl_state, raw_safetensors, tiny_state
from conftest import random_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from vaekit.checkpoints.identify import identify
from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.read import read
from vaekit.checkpoints.sources import TensorInfo
from vaekit.errors import FileError
from vaekit.networks.config import TinyConfig

SPECK = dict(random_state(TinyConfig(4, 1, (1, 1, 1, 1), (1, 1, 1, 1))))
"""The smallest VAE there is: most of its file is what tells its tensors."""

SECONDS = 5.0


def fuzz(examples: int) -> Callable[[Any], Any]:
    suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, suppress_health_check=suppressed)


def check(path: Path) -> None:
    """A result, or one line that names the file, in a moment."""
    for way in (read, inspect):
        start = time.monotonic()
        try:
            way(path)
        except FileError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            assert len(str(error)) < 500 + len(str(path))
        assert time.monotonic() - start < SECONDS


def in_torch_format(content: object, *, legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


VALID = {
    "safetensors": save(SPECK),
    "zip": in_torch_format({"state_dict": SPECK}, legacy=False),
    "legacy": in_torch_format(SPECK, legacy=True),
}


def test_the_files_that_are_broken_below_are_sound(tmp_path: Path) -> None:
    for name, content in VALID.items():
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name).state.keys() == SPECK.keys()


@fuzz(150)
@given(
    content=st.binary(max_size=300), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10" + bytes(7) + b"{"])
)
def test_any_bytes(content: bytes, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(start + content)
    check(path)


@pytest.mark.parametrize("container", VALID)
@fuzz(100)
@given(data=st.data())
def test_sound_files_with_some_bytes_changed(container: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(VALID[container])
    places = st.one_of(st.integers(0, min(len(content), 4000) - 1), st.integers(0, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / "file"
    path.write_bytes(content[:cut])
    check(path)


@pytest.mark.parametrize("container", VALID)
@fuzz(40)
@given(data=st.data())
def test_sound_files_with_a_piece_taken_out_doubled_or_moved(
    container: str, data: st.DataObject, tmp_path: Path
) -> None:
    content = VALID[container]
    start, end, to = (data.draw(st.integers(0, len(content))) for _ in range(3))
    piece = content[min(start, end) : max(start, end)]
    rest = content[: min(start, end)] + content[max(start, end) :]
    path = tmp_path / "file"
    path.write_bytes(
        data.draw(st.sampled_from([rest, rest[:to] + piece + rest[to:], content[:to] + piece + content[to:]]))
    )
    check(path)


# Headers of safetensors files

sizes = st.one_of(st.integers(0, 5), st.sampled_from([-1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 1.5, None, "3"]))
dtypes = st.sampled_from(
    ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E8M0", "F4", "I64", "I8", "BOOL", "C64", "X", 1, None]
)
names = st.one_of(st.sampled_from(sorted(SPECK)), st.text(max_size=20), st.just("__metadata__"))


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """The header of a sound file with some of it changed."""
    header = json.loads(VALID["safetensors"][8 : 8 + int.from_bytes(VALID["safetensors"][:8], "little")])
    for name in draw(st.lists(st.sampled_from(sorted(SPECK)), min_size=1, max_size=3, unique=True)):
        if not isinstance(header.get(name), dict):  # an earlier change took it
            continue
        change = draw(st.sampled_from(["dtype", "shape", "offsets", "name", "swap", "remove", "extra"]))
        if change == "dtype":
            header[name]["dtype"] = draw(dtypes)
        elif change == "shape":
            header[name]["shape"] = draw(st.lists(sizes, max_size=5))
        elif change == "offsets":
            header[name]["data_offsets"] = draw(st.lists(sizes, min_size=1, max_size=3))
        elif change == "name":
            header[draw(names)] = header.pop(name)
        elif change == "swap":
            other = draw(st.sampled_from(sorted(header)))
            header[name], header[other] = header[other], header[name]
        elif change == "remove":
            del header[name]
        else:
            header[draw(names)] = draw(st.one_of(st.none(), st.integers(), st.dictionaries(names, sizes, max_size=3)))
    return header


@fuzz(150)
@given(header=headers())
def test_headers_with_some_of_it_changed(header: dict[str, Any], tmp_path: Path) -> None:
    data = VALID["safetensors"][8 + int.from_bytes(VALID["safetensors"][:8], "little") :]
    check(raw_safetensors(header, data, tmp_path / "file"))


@fuzz(60)
@given(
    tensors=st.dictionaries(
        names, st.tuples(st.sampled_from(["F32", "F16", "I8"]), st.lists(st.integers(0, 3), max_size=5)), max_size=12
    )
)
def test_consistent_files_of_any_tensors(tensors: dict[str, tuple[str, list[int]]], tmp_path: Path) -> None:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * {"F32": 4, "F16": 2, "I8": 1}[dtype]
        header[name] = entry(dtype, shape, end, end + size)
        end += size
    check(raw_safetensors(header, bytes(end), tmp_path / "file"))


# Pickles

OPERATIONS = st.one_of(
    st.sampled_from(
        [b")", b"]", b"}", b"\x8f", b"(", b"t", b"l", b"\x85", b"\x86", b"\x87", b"N", b"\x88", b"R", b"\x81"]
    ),
    st.sampled_from(
        [b"b", b"a", b"e", b"s", b"u", b"Q", b"0", b"2", b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"\x94", b"\x93"]
    ),
    st.integers(-5, 40).map(lambda number: b"J" + number.to_bytes(4, "little", signed=True)),
    st.integers(-(2**70), 2**70).map(lambda number: b"\x8a\x0a" + number.to_bytes(10, "little", signed=True)),
    st.sampled_from(["storage", "cpu", "meta", "0", "state_dict", "decoder.1.weight", ""]).map(
        lambda text: b"X" + len(text).to_bytes(4, "little") + text.encode()
    ),
    st.sampled_from(
        [
            "collections OrderedDict",
            "builtins set",
            "torch Size",
            "torch FloatStorage",
            "torch.storage UntypedStorage",
            "torch.storage TypedStorage",
            "torch float32",
            "torch.nn.parameter Parameter",
            "torch._utils _rebuild_tensor",
            "torch._utils _rebuild_tensor_v2",
            "torch._utils _rebuild_parameter",
            "numpy.core.multiarray scalar",
            "_codecs encode",
        ]
    ).map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n"),
)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@fuzz(150)
@given(operations=st.lists(OPERATIONS, max_size=30))
def test_pickles_of_any_operations(container: str, operations: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTAINERS[container](b"\x80\x02" + b"".join(operations) + b"."))
    check(path)


numbers = st.one_of(st.integers(-2, 12), st.sampled_from([2**31, 2**40, 2**62, 2**63, -(2**63)]))


@fuzz(150)
@given(
    numel=numbers,
    offset=numbers,
    shape=st.lists(numbers, max_size=4),
    stride=st.lists(numbers, max_size=4),
    storage=st.sampled_from([b"ctorch\nFloatStorage\n", b"ctorch\nHalfStorage\n", b"ctorch.storage\nUntypedStorage\n"]),
)
def test_tensors_that_lie_about_their_place_in_the_file(
    numel: int, offset: int, shape: list[int], stride: list[int], storage: bytes, tmp_path: Path
) -> None:
    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    where = b"(" + text("storage") + storage + text("0") + text("cpu") + number(numel) + b"tQ"
    sides = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (shape, stride))
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + number(offset) + sides + b"\x89}tR"
    path = tmp_path / "file"
    path.write_bytes(CONTAINERS["zip"](b"\x80\x02}" + text("decoder.1.weight") + tensor + b"s."))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    check(path)


# Names and shapes

WHOLE = [
    {name: tuple(tensor.shape) for name, tensor in state.items()}
    for state in (kl_state(), in_diffusers_names(kl_state()), in_diffusers_names(kl_state(), old=True), tiny_state())
]
SHAPES = {name: shape for whole in WHOLE for name, shape in whole.items()}
POOL = sorted(SHAPES)
shapes = st.lists(st.sampled_from([0, 1, 3, 4, 8, 32, 2**40]), max_size=5).map(tuple)


@fuzz(200)
@given(data=st.data())
def test_any_names_and_shapes_are_recognised_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    whole = data.draw(st.sampled_from([*WHOLE, {}]))
    tensors = {name: TensorInfo("F32", shape) for name, shape in whole.items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(whole) or POOL), max_size=2)):
        tensors.pop(name, None)
    for name in data.draw(st.lists(st.one_of(st.sampled_from(POOL), names), max_size=4)):
        prefix = data.draw(st.sampled_from(["", "", "vae.", "first_stage_model.", "x."]))
        tensors[prefix + name] = TensorInfo("F32", data.draw(st.one_of(st.just(SHAPES.get(name, (1,))), shapes)))
    config = data.draw(st.dictionaries(st.sampled_from(CONFIG_KEYS), CONFIG_VALUES, max_size=3))
    start = time.monotonic()
    try:
        identify(
            tensors, path=tmp_path, metadata={"modelspec.architecture": data.draw(st.text(max_size=5))}, config=config
        )
    except FileError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - start < SECONDS


CONFIG_KEYS = [
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std", "norm_num_groups"),
    *("padding_mode", "_pipeline", "_diffusers_version"),
]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
CONFIG_VALUES = st.one_of(JSON, st.sampled_from([0.18215, 32, 1, "reflect", "0.1.0", [0.5] * 4, "StableDiffusion"]))

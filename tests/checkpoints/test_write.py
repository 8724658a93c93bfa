"""Files that are written are those that the safetensors library writes, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoints.making import save_safetensors, save_shards, save_torch
from checkpoints.whole import HEADER
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import Tensor

from vaekit.checkpoints.sources import PIECE, TensorInfo, open_source
from vaekit.checkpoints.write import Entry, copied, make_header, stored, write
from vaekit.errors import FileError, OptionError, OutputError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Any bits at all, NaN among them."""
    highest = 2 if dtype == torch.bool else 256
    count = math.prod(shape) * dtype.itemsize
    bits = torch.randint(0, highest, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


STATE = {f"{dtype}".removeprefix("torch."): tensor(dtype, (3, 5), seed) for seed, dtype in enumerate(DTYPES)}
STATE |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 4), "turned": torch.arange(12.0).reshape(3, 4).T}


def same_bits(a: Tensor, b: Tensor) -> bool:
    flat_a, flat_b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(flat_a, flat_b)


def entries(state: dict[str, Tensor]) -> dict[str, Entry]:
    return {name: stored(value) for name, value in sorted(state.items())}


@settings(max_examples=40, deadline=None)
@given(
    names=st.sets(st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__")),
    metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=1),
    data=st.data(),
)
def test_a_file_is_byte_for_byte_that_of_the_safetensors_library(
    names: set[str], metadata: dict[str, str] | None, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    state = {name: tensor(data.draw(st.sampled_from(DTYPES)), data.draw(shapes)) for name in names}
    path = tmp_path_factory.mktemp("written") / "a.safetensors"
    written = write(path, entries(state), metadata)
    assert path.read_bytes() == save(state, metadata)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written.size == path.stat().st_size


def test_the_header_of_a_published_checkpoint_comes_out_as_it_was_published() -> None:
    """Its SHA-256 was published; safetensors of that time put n % 8 spaces behind a header of n bytes."""
    sizes = {"I64": 8, "F32": 4, "I32": 4}
    published = json.loads(HEADER.read_text())["tensors"]
    ordered = sorted(published.items(), key=lambda item: (list(sizes).index(item[1][0]), item[0]))
    header = make_header(
        {name: (TensorInfo(d, tuple(shape)), math.prod(shape) * sizes[d]) for name, (d, shape) in ordered},
        {"format": "pt"},
    )
    assert len(header) % 8 == 0
    assert int.from_bytes(header[:8], "little") == len(header) - 8
    bare = header[8:].rstrip(b" ")
    as_then = bare + b" " * (len(bare) % 8)
    assert len(as_then) == 156444
    assert hashlib.sha256(as_then).hexdigest() == "ed6e1a1f33ba3a02193e599f6441e213f973f2949dedcfafefd570da536eae9e"


@pytest.mark.parametrize("container", ["safetensors", "shards", "zip", "legacy"])
def test_tensors_of_every_dtype_are_copied_bit_for_bit_out_of_any_container(container: str, tmp_path: Path) -> None:
    large = tensor(torch.float16, (PIECE // 2 + 1000,))
    state = STATE | {"large": large, "another name for it": large}
    if container == "legacy":  # older than these dtypes
        state = {name: value for name, value in state.items() if not name.startswith("float8")}
    make: dict[str, Callable[[], Path]] = {
        "safetensors": lambda: save_safetensors({n: t.clone() for n, t in state.items()}, tmp_path / "a.safetensors"),
        "shards": lambda: save_shards({n: t.clone() for n, t in state.items()}, tmp_path),
        "zip": lambda: save_torch({"state_dict": state}, tmp_path / "a.ckpt"),
        "legacy": lambda: save_torch(state, tmp_path / "a.pt", legacy=True),
    }
    source = open_source(make[container]())
    write(tmp_path / "b.safetensors", {name: copied(source, name) for name in source.tensors})
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert same_bits(found[name], value), name


def test_a_mapped_pickle_that_is_opened_again_and_again_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.checkpoints.pickles.MOST_MAPPED", 10)
    source = open_source(save_torch(STATE, tmp_path / "a.ckpt"))
    write(tmp_path / "b.safetensors", {name: copied(source, name) for name in source.tensors})
    assert all(same_bits(t, STATE[name]) for name, t in load_file(tmp_path / "b.safetensors").items())


def test_a_pickle_that_changes_while_it_is_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.checkpoints.pickles.MOST_MAPPED", 10)
    path = save_torch(STATE, tmp_path / "a.ckpt")
    source = open_source(path)
    list(source.pieces("float32"))
    save_torch({"other": torch.ones(3)}, tmp_path / "b.ckpt").replace(path)
    with pytest.raises(FileError, match="changed while it was read"):
        list(source.pieces("float16"))


def test_a_tensor_is_converted_when_its_turn_comes(tmp_path: Path) -> None:
    exact = torch.arange(6.0).reshape(2, 3)
    write(tmp_path / "a.safetensors", {"a": stored(exact, torch.bfloat16)})
    assert same_bits(load_file(tmp_path / "a.safetensors")["a"], exact.bfloat16())


def test_progress_ends_at_its_total_and_never_goes_back(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    size = write(tmp_path / "a.safetensors", entries(STATE), progress=lambda *n: told.append(n)).size
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (2 * size, 2 * size)


# What goes wrong


class Folder(NamedTuple):
    """A folder with one file that matters, and what was in it."""

    path: Path
    precious: Path

    def check(self) -> None:
        """Nothing was lost, and nothing half-written was left."""
        assert list(self.path.iterdir()) == [self.precious]
        assert self.precious.read_bytes() == b"precious"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    inside = tmp_path / "out"
    inside.mkdir()
    precious = inside / "a.safetensors"
    precious.write_bytes(b"precious")
    yield Folder(inside, precious)
    Folder(inside, precious).check()


def test_nothing_is_overwritten_without_force(folder: Folder) -> None:
    with pytest.raises(OutputError, match="--force"):
        write(folder.precious, entries(STATE))


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a", "a.safetensors.bak"])
def test_a_name_of_another_format_is_refused(name: str, folder: Folder) -> None:
    with pytest.raises(OptionError, match=r"name it a(\.safetensors)?\.safetensors"):
        write(folder.path / name, entries(STATE))


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=100))
    fetched: list[str] = []
    entry = Entry(TensorInfo("F32", (100,)), 400, lambda: fetched.append("now") or [])
    with pytest.raises(OutputError, match=r"has 0\.00 GB left"):
        write(folder.precious, {"a": entry}, force=True)
    assert not fetched


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(folder: Folder) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OutputError, match="nothing was written"):
            write(folder.precious, {"a": stored(torch.zeros(1 << 20))}, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_source_that_gets_shorter_on_the_way_is_told(folder: Folder, tmp_path: Path) -> None:
    path = save_safetensors({"a": torch.ones(5000), "b": torch.ones(5000)}, tmp_path / "source.safetensors")
    source = open_source(path)
    os.truncate(path, 30_000)
    with pytest.raises(FileError, match="became shorter"):
        write(folder.precious, {name: copied(source, name) for name in source.tensors}, force=True)


def test_a_source_that_vanishes_is_told(folder: Folder, tmp_path: Path) -> None:
    source = open_source(save_safetensors({"a": torch.ones(5)}, tmp_path / "source.safetensors"))
    source.path.unlink()
    with pytest.raises(FileError, match="No such file"):
        write(folder.precious, {"a": copied(source, "a")}, force=True)


@pytest.mark.parametrize("count", [0, 15, 17])
def test_a_tensor_of_other_size_than_it_says_is_refused(count: int, folder: Folder) -> None:
    with pytest.raises(FileError, match="where 16 belong"):
        write(folder.precious, {"a": Entry(TensorInfo("F32", (4,)), 16, lambda: [bytes(count)])}, force=True)


@pytest.mark.parametrize("name", ["__metadata__", "a"])
def test_what_a_file_has_no_place_for_is_refused(name: str, folder: Folder) -> None:
    odd = stored(torch.zeros(2, dtype=torch.complex128)) if name == "a" else stored(torch.zeros(2))
    with pytest.raises(FileError, match="no place in a safetensors file"):
        write(folder.precious, {name: odd}, force=True)


@pytest.mark.parametrize("where", [0, 9, -1])
def test_a_byte_that_the_disk_changed_is_found_by_reading_back(
    where: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_fsync(descriptor: int) -> None:
        path = next(folder.path.glob("*.part*"))
        content = bytearray(path.read_bytes())
        content[where] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr("os.fsync", broken_fsync)
    with pytest.raises(OutputError, match="does not read back"):
        write(folder.precious, entries(STATE), {"format": "pt"}, force=True)


def test_an_interruption_leaves_nothing(folder: Folder) -> None:
    def interrupted() -> Any:
        yield bytes(8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(folder.precious, {"a": Entry(TensorInfo("F32", (4,)), 16, interrupted)}, force=True)

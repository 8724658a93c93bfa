"""Files that are hostile, broken, or something else give one clear line; of large ones only the VAE is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints.making import entry, kl_state, raw_safetensors, save_safetensors, save_shards, save_torch
from safetensors.torch import save

from vaekit.checkpoints.inspect import inspect
from vaekit.checkpoints.read import read
from vaekit.errors import FileError, NotAVAEError


def refusal(path: Path, names: str | None = None) -> str:
    """The one line that both ways of opening give; names: what it must name if not the path."""
    lines = set()
    for way in (read, inspect):
        start = time.monotonic()
        with pytest.raises(FileError) as refused:
            way(path)
        assert time.monotonic() - start < 5
        lines.add(str(refused.value))
    line = lines.pop()
    assert not lines
    assert "\n" not in line
    assert (names or str(path)) in line
    return line


# The format is decided by content


@pytest.mark.parametrize("name", ["vae.safetensors", "vae.ckpt", "vae.Safetensors", "vae.pt", "vae", "vae.pth.bak"])
@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_the_format_is_decided_by_the_content(name: str, container: str, tmp_path: Path) -> None:
    state, path = kl_state(), tmp_path / name
    if container == "safetensors":
        path.write_bytes(save(state))
    else:
        save_torch({"state_dict": state}, tmp_path / "t.pt", legacy=container == "legacy").rename(path)
    found = read(path).state
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert inspect(path)[0].container == ("safetensors" if container == "safetensors" else "torch")


@pytest.mark.parametrize("under", ["state_dict", "model", "params_ema", None])
def test_a_state_dict_is_found_where_training_programs_put_it(under: str | None, tmp_path: Path) -> None:
    state = kl_state()
    content = state if under is None else {"epoch": 1, under: state}
    assert read(save_torch(content, tmp_path / "m.bin")).state.keys() == state.keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGUF" + bytes(100), "GGUF"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
        (b"RIFF\x00\x00\x00\x00WEBP", "picture"),
        (b"hello, this is a text", "neither"),
        (bytes(1000), "neither"),
        (b"", "empty"),
        (b"\x80", "neither"),
        (b"PK\x03\x04 and no more", "broken"),
    ],
)
def test_what_people_give_by_mistake_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    path.write_bytes(content)
    assert words in refusal(path)


# What is no file


def test_paths_to_no_file_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    assert "no such file" in refusal(tmp_path / "missing.safetensors")
    assert "symbolic links" in refusal(tmp_path / "loop")
    assert "not a regular file" in refusal(tmp_path / "fifo")
    assert "not a regular file" in refusal(Path("/dev/zero"))
    assert "folder without a VAE" in refusal(tmp_path)
    assert "name too long" in refusal(tmp_path / ("n" * 5000))
    assert "null" in refusal(tmp_path / "a\0b", names=r"a\x00b")
    assert "null" in refusal(tmp_path / "diffusion_pytorch_model\0", names=r"model\x00")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_gives_one_line(tmp_path: Path) -> None:
    path = save_safetensors(kl_state(), tmp_path / "vae.safetensors")
    path.chmod(0)
    assert "ermission" in refusal(path)


def test_a_file_that_cannot_be_read_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_safetensors(kl_state(), tmp_path / "vae.safetensors")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(path)


# Headers that lie

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
ONE = json.dumps(F32).encode()
LIES: dict[str, tuple[bytes | dict[str, object], int]] = {
    "overlap": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, 6),
    "hole": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12),
    "twice over the same bytes": (b'{"a":' + ONE + b',"a":' + ONE.replace(b"F32", b"I32") + b"}", 4),
    "twice, once with escapes": (b'{"a":' + ONE + b',"\\u0061":' + ONE.replace(b'"data_', b'"d\\u0061ta_') + b"}", 4),
    "twice, and the field's name elsewhere": (
        b'{"__metadata__":{"data_offsets":""},"a":' + ONE + b',"a":' + ONE + b"}",
        4,
    ),
    "twice in the metadata": (b'{"__metadata__":{"b":"1","b":"2"},"a":' + ONE + b"}", 4),
    "metadata twice": (b'{"__metadata__":{"b":"1"},"__metadata__" : {"b":"2"},"a":' + ONE + b"}", 4),
    "negative shape": ({"a": entry("F32", [-1], 0, 4)}, 4),
    "negative offset": ({"a": entry("F32", [1], -4, 0)}, 4),
    "backward offsets": ({"a": entry("F32", [1], 4, 0)}, 4),
    "shape of 2**63": ({"a": entry("F32", [2**63], 0, 4)}, 4),
    "shape of 2**64": ({"a": entry("F32", [2**64], 0, 4)}, 4),
    "shapes that overflow": ({"a": entry("F32", [2**62, 8], 0, 4)}, 4),
    "offsets of 2**63": ({"a": entry("F32", [1], 2**63, 2**63 + 4)}, 4),
    "shape larger than its bytes": ({"a": entry("F32", [2], 0, 4)}, 4),
    "bytes left over": ({"a": F32}, 8),
    "bytes missing": ({"a": F32}, 3),
    "unknown dtype": ({"a": entry("F31", [1], 0, 4)}, 4),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": F32}, 4),
    "no closing brace": (b'{"a":' + ONE, 4),
    "nested a hundred thousand deep": (b'{"a":' + b"[" * 100_000, 0),
    "half a surrogate": (b'{"\\ud800":' + ONE + b"}", 4),
    "not UTF-8": (b'{"\xff":' + ONE + b"}", 4),
    "a list": (b"[]" + b" " * 20, 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_gives_one_line(lie: str, tmp_path: Path) -> None:
    header, size = LIES[lie]
    path = raw_safetensors(header, bytes(size), tmp_path / "vae.safetensors")
    assert "header" in refusal(path) or lie == "a list"


@pytest.mark.parametrize("length", [0, 3, 200, 100_000_000, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_another_length_than_it_claims_gives_one_line(length: int, tmp_path: Path) -> None:
    refusal(raw_safetensors({"a": F32}, bytes(4), tmp_path / "vae.safetensors", length=length))


def test_a_real_header_of_endless_length_is_refused_unread(tmp_path: Path) -> None:
    path = raw_safetensors(b'{"a', b"", tmp_path / "vae.safetensors", length=99_000_000)
    with path.open("r+b") as file:
        file.truncate(100_000_000)
    assert "impossible length" in refusal(path)


def test_a_name_with_line_breaks_or_without_end_still_gives_one_short_line(tmp_path: Path) -> None:
    for name in ("encoder.conv_in.weight\n\nx", "decoder.\n", "encoder." + "x" * 100_000):
        state = {**kl_state(), name: torch.zeros(1)}
        assert len(refusal(save_safetensors(state, tmp_path / "vae.safetensors"))) < 400
        assert len(refusal(save_safetensors({name: torch.zeros(1)}, tmp_path / "vae.safetensors"))) < 400


# Broken, at every place


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_a_file_cut_off_anywhere_gives_one_line(container: str, tmp_path: Path) -> None:
    state = {"decoder.1.weight": torch.ones(2, 2), "decoder.1.bias": torch.ones(2)}
    path = tmp_path / "vae"
    if container == "safetensors":
        path.write_bytes(save(state))
    else:
        save_torch(state, path, legacy=container == "legacy")
    whole = path.read_bytes()
    assert "a tiny autoencoder of another kind" in refusal(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError) as refused:
            read(path)
        assert not isinstance(refused.value, NotAVAEError)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in kl_state().items()}
    wrong = state["decoder.conv_in.bias"].to(torch.float32)
    wrong[3] = value
    state["decoder.conv_in.bias"] = wrong.to(dtype)
    path = save_safetensors(state, tmp_path / "vae.safetensors")
    with pytest.raises(FileError, match=r"decoder\.conv_in\.bias holds NaN or infinite") as refused:
        read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e8m0fnu])
def test_weights_of_other_dtypes_than_numbers_that_run_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    state = kl_state()
    state["decoder.conv_in.bias"] = torch.ones(32).to(dtype)
    assert "decoder.conv_in.bias holds" in refusal(save_safetensors(state, tmp_path / "vae.safetensors"))
    if dtype != torch.float8_e8m0fnu:
        assert "decoder.conv_in.bias holds" in refusal(save_torch(state, tmp_path / "vae.pt"))


@pytest.mark.parametrize(
    "content", [{}, {"a": 1}, [], "text", None, torch.ones(3), {"state_dict": {}}, {1: torch.ones(1)}]
)
def test_a_pickle_without_named_tensors_gives_one_line(content: object, tmp_path: Path) -> None:
    assert "tensor" in refusal(save_torch(content, tmp_path / "m.pt"))


# Shards


@pytest.mark.parametrize("way", ["index", "folder"])
def test_shards_are_read_through_their_index_or_their_folder(way: str, tmp_path: Path) -> None:
    state = kl_state()
    index = save_shards(state, tmp_path)
    path = index if way == "index" else tmp_path
    found = read(path).state
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert inspect(path)[0].size == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))


def rewritten(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def rewrite(index: Path) -> None:
        content = json.loads(index.read_text())
        content["weight_map"] = change(content["weight_map"])
        index.write_text(json.dumps(content))

    return rewrite


def with_shard(shard: str) -> Callable[[Path], None]:
    return rewritten(lambda weights: weights | {"decoder.conv_in.bias": shard})


BROKEN_INDICES: dict[str, tuple[Callable[[Path], object], str]] = {
    "path traversal": (with_shard("../secret.safetensors"), "outside its folder"),
    "absolute": (with_shard("/etc/passwd"), "outside its folder"),
    "the parent": (with_shard(".."), "outside its folder"),
    "the folder": (with_shard("."), "outside its folder"),
    "no name": (with_shard(""), "outside its folder"),
    "missing shard": (with_shard("model-00003-of-00002.safetensors"), "no such file"),
    "null byte": (with_shard("a\0b"), "null"),
    "itself": (with_shard("model.safetensors.index.json"), "header"),
    "fifo": (with_shard("fifo"), "not a regular file"),
    "a tensor that is not there": (
        rewritten(lambda weights: weights | {"decoder.more": min(weights.values())}),
        "does not hold decoder.more",
    ),
    "a list": (rewritten(list), "not an index"),
    "numbers": (rewritten(lambda weights: dict.fromkeys(weights, 1)), "no such file"),
    "no map": (lambda index: index.write_text("{}"), "not an index"),
    "no JSON": (lambda index: index.write_text("{"), "not an index"),
    "not UTF-8": (lambda index: index.write_bytes(b'{"weight_map": {"\xff": "a"}}'), "not an index"),
    "deep": (lambda index: index.write_text("[" * 100_000), "not an index"),
    "huge": (lambda index: os.truncate(index, 1 << 30), "too large"),
}


@pytest.mark.parametrize("broken", BROKEN_INDICES)
def test_an_index_that_lies_gives_one_line(broken: str, tmp_path: Path) -> None:
    index = save_shards(kl_state(), tmp_path)
    os.mkfifo(tmp_path / "fifo")
    change, words = BROKEN_INDICES[broken]
    change(index)
    assert words in refusal(index, names=str(tmp_path))


# Large files

MEASURE = r"""
import json, re, sys, time
from pathlib import Path
start = time.process_time()  # not the clock: other tests may hold the processor
{action}
seconds = time.process_time() - start
# not getrusage: its peak is that of the parent, when the parent was larger
peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps([seconds, peak, "torch" in sys.modules, found]))
"""
INSPECT = "import vaekit; found = vaekit.inspect(sys.argv[1])[0].to_dict()['other_tensors']"
READ = "from vaekit.checkpoints.read import read; found = len(read(Path(sys.argv[1])).state)"
ONLY_IMPORTS = "import torch, safetensors.torch, vaekit.checkpoints.read, vaekit.checkpoints.identify; found = 0"


def measure(action: str, path: Path) -> tuple[float, float, bool, int]:
    """Seconds of processor time, peak memory in MiB, whether torch came along, and what was found, in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(action=action), str(path)], capture_output=True, text=True, check=True
    )
    seconds, peak, torch_imported, found = json.loads(done.stdout)
    return seconds, peak, torch_imported, found


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 GB on paper: a small VAE behind a large UNet, which is a hole in the file."""
    unet = {f"model.diffusion_model.input_blocks.{i}.0.weight": 4 << 20 for i in range(1000)}
    header: dict[str, object] = {}
    end = 0
    for name, size in unet.items():
        header[name] = entry("F16", [size // 2], end, end + size)
        end += size
    state = kl_state()
    for name, tensor in state.items():
        size = tensor.numel() * 4
        header[f"first_stage_model.{name}"] = entry("F32", list(tensor.shape), end, end + size)
        end += size
    path = raw_safetensors(header, b"", tmp_path_factory.mktemp("large") / "model.safetensors")
    start = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(start + end)
    assert path.stat().st_size > 4e9
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted by Linux's /proc")
def test_inspecting_a_checkpoint_of_4_gb_is_quick_and_small_and_imports_no_torch(large_checkpoint: Path) -> None:
    seconds, peak, torch_imported, others = min(measure(INSPECT, large_checkpoint) for _ in range(3))
    assert not torch_imported
    assert peak < 200
    assert others == 1000
    assert seconds < 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted by Linux's /proc")
def test_reading_a_vae_out_of_4_gb_touches_nothing_else(large_checkpoint: Path) -> None:
    _, peak, _, tensors = measure(READ, large_checkpoint)
    _, without, _, _ = measure(ONLY_IMPORTS, large_checkpoint)
    assert tensors == len(kl_state())
    assert peak - without < 50

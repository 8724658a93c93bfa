"""Files of latents: exact round trips, the formats of others, and hostile bytes."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from vaekit.errors import FamilyError, LatentsError, OptionError, OutputError, UnsafeFileError, VaekitError
from vaekit.families import Family, families, family
from vaekit.latents import Latents
from vaekit.latents.files import read, write

FLOATS: dict[torch.dtype, Any] = {
    torch.float16: np.uint16,
    torch.bfloat16: np.uint16,
    torch.float32: np.uint32,
    torch.float64: np.uint64,
}
UNFOLDED = [f.name for f in families().values() if f.fold == 1]
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def latents_of(tensor: Tensor, f: Family | str = "sd1", **changes: Any) -> Latents:
    f = family(f) if isinstance(f, str) else f
    return Latents(tensor, f, (tensor.shape[3] * f.downscale, tensor.shape[2] * f.downscale), **changes)


def random(name: str = "sd1", dtype: torch.dtype = torch.float32, height: int = 3, width: int = 2) -> Latents:
    generator = torch.Generator().manual_seed(7)
    return latents_of(torch.randn(1, family(name).latent_channels, height, width, generator=generator).to(dtype), name)


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def same(a: Latents, b: Latents) -> bool:
    return (
        (a.tensor.dtype, a.tensor.shape, a.family, a.size, a.vae)
        == (b.tensor.dtype, b.tensor.shape, b.family, b.size, b.vae)
        and bits(a.tensor) == bits(b.tensor)
        and (a.alpha is None) == (b.alpha is None)
        and (a.alpha is None or b.alpha is None or torch.equal(a.alpha, b.alpha))
    )


def tensors_in(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "latents.safetensors"


# Round trips


@st.composite
def any_latents(draw: st.DrawFn, names: list[str]) -> Latents:
    """Latents of any bit pattern: subnormal, huge, NaN with a payload, negative zero."""
    f = family(draw(st.sampled_from(names)))
    dtype = draw(st.sampled_from(list(FLOATS)))
    word = FLOATS[dtype]
    special = [float(v) for v in ("0", "-0.0", "inf", "-inf", "nan", "1e-30", "5e-324", "3e38", "65504", "1", "0.1")]
    number = st.sampled_from(special).map(lambda v: bits(torch.tensor([v], dtype=torch.float64).to(dtype)))
    pattern = st.integers(0, int(np.iinfo(word).max)).map(lambda v: np.array([v], word).tobytes())
    pool = draw(st.lists(number | pattern, min_size=1, max_size=6))
    words = np.frombuffer(b"".join(pool[i % len(pool)] for i in range(f.latent_channels * 2)), np.uint8)
    return latents_of(torch.from_numpy(words.copy()).view(dtype).view(1, f.latent_channels, 1, 2), f)


@given(latents=any_latents(list(families())), scaled=st.booleans())
@quick
def test_our_own_format_gives_back_every_bit(tmp_path: Path, latents: Latents, scaled: bool) -> None:
    write(latents, tmp_path / "a", scaled=scaled, force=True)
    assert same(read(tmp_path / "a"), latents)


@given(latents=any_latents(UNFOLDED))
@quick
def test_comfyuis_format_gives_back_every_bit(tmp_path: Path, latents: Latents) -> None:
    write(latents, tmp_path / "a", format="comfyui", force=True)
    assert same(read(tmp_path / "a"), latents)


@pytest.mark.parametrize("name", families())
@pytest.mark.parametrize("dtype", FLOATS)
def test_usual_latents_come_back_through_raw_values_alone(path: Path, name: str, dtype: torch.dtype) -> None:
    latents = random(name, dtype, 16, 16)
    write(latents, path, scaled=False)
    assert same(read(path), latents)
    if dtype != torch.float64:
        assert set(tensors_in(path)) == {"latents"}
    if dtype == torch.float16:
        assert tensors_in(path)["latents"].dtype == torch.float32


def test_size_fingerprint_and_alpha_come_back(tmp_path: Path) -> None:
    alpha = torch.arange(2 * 17 * 9, dtype=torch.uint8).view(2, 1, 17, 9)
    latents = Latents(torch.randn(2, 4, 3, 2), family("sdxl"), (9, 17), vae="abc:123", alpha=alpha)
    for number, options in enumerate([{}, {"scaled": False}, {"format": "comfyui"}]):
        latents.save(tmp_path / str(number), **options)  # type: ignore[arg-type]
        assert same(Latents.load(tmp_path / str(number)), latents)


def test_views_and_gradients_are_written_as_plain_tensors(path: Path) -> None:
    tensor = torch.randn(1, 2, 3, 4).permute(0, 3, 2, 1).requires_grad_()
    write(latents_of(tensor), path)
    assert torch.equal(read(path).tensor, tensor.detach())


def test_raw_files_hold_what_the_network_decodes(path: Path) -> None:
    latents = random("sd3")
    write(latents, path, scaled=False)
    stored = tensors_in(path)["latents"]
    assert torch.allclose(stored, latents.tensor.double() / 1.5305 + 0.0609, rtol=1e-12)


CUSTOM = Family(name="mine", latent_channels=2, downscale=4, scaling_factor=0.1, mean=(0.3, -1.0), std=(1.7, 0.2))


@given(
    scaling=st.floats(1e-3, 1e3),
    mean=st.lists(st.floats(-10, 10), min_size=2, max_size=2),
    std=st.lists(st.floats(1e-2, 100), min_size=2, max_size=2),
)
@quick
def test_a_family_that_vaekit_does_not_know_comes_back(
    tmp_path: Path, scaling: float, mean: list[float], std: list[float]
) -> None:
    mine = CUSTOM.model_copy(update={"scaling_factor": scaling, "mean": tuple(mean), "std": tuple(std)})
    latents = latents_of(torch.randn(1, 2, 3, 2), mine)
    write(latents, tmp_path / "a", scaled=False, force=True)
    assert same(read(tmp_path / "a"), latents)


def test_a_known_name_with_other_numbers_is_refused(path: Path) -> None:
    write(latents_of(torch.randn(1, 4, 2, 2), family("sd1").model_copy(update={"scaling_factor": 0.2})), path)
    with pytest.raises(LatentsError, match="other numbers than vaekit's sd1"):
        read(path)


def test_other_titles_and_preview_factors_do_not_make_another_family(path: Path) -> None:
    write(latents_of(torch.randn(1, 4, 2, 2), family("sd1").model_copy(update={"title": "old", "preview": None})), path)
    assert read(path).family is family("sd1")


def test_what_the_file_says_may_not_be_contradicted(path: Path) -> None:
    write(random("sd1"), path)
    assert read(path, family="sd1", scaled=True).family.name == "sd1"
    with pytest.raises(FamilyError, match="latents of sd1, not of sdxl"):
        read(path, family="sdxl")
    with pytest.raises(OptionError, match="contradicts"):
        read(path, scaled=False)
    with pytest.raises(FamilyError, match="did you mean"):
        read(path, family="sdx")


# Writing


def test_the_name_chooses_the_format_only_when_writing(tmp_path: Path) -> None:
    for name, expected in (("a.latent", "latent_tensor"), ("a.LATENT", "latent_tensor"), ("a.npz", "latents")):
        write(random(), tmp_path / name, force=True)
        assert expected in tensors_in(tmp_path / name)
    write(random(), tmp_path / "b.latent", format="vaekit")
    assert same(read(tmp_path / "b.latent"), random())


def test_comfyui_finds_what_it_looks_for(tmp_path: Path) -> None:
    latents = random("sdxl", torch.bfloat16)
    write(latents, tmp_path / "a.latent")
    stored = tensors_in(tmp_path / "a.latent")
    assert stored["latent_format_version_0"].numel() == 0
    assert torch.allclose(stored["latent_tensor"].float(), latents.tensor.float() / 0.13025, rtol=1e-6)


def test_nothing_is_overwritten_unasked(path: Path) -> None:
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write(random(), path)
    assert path.read_bytes() == b"mine"
    write(random(), path, force=True)
    assert same(read(path), random())


def test_an_unknown_format_is_refused_and_nothing_is_written(path: Path) -> None:
    with pytest.raises(OptionError, match="'png'"):
        write(random(), path, format="png")
    assert not path.exists()


def test_folded_families_have_no_comfyui_format(tmp_path: Path) -> None:
    with pytest.raises(LatentsError, match="flux2"):
        write(random("flux2"), tmp_path / "a.latent")
    assert list(tmp_path.iterdir()) == []
    save_comfyui(tmp_path / "b.latent", torch.randn(1, 128, 2, 2))
    with pytest.raises(LatentsError, match="flux2"):
        read(tmp_path / "b.latent")


def test_the_metadata_say_what_the_documentation_promises(path: Path) -> None:
    write(Latents(torch.zeros(1, 4, 3, 2), family("sd1"), (9, 17), vae="f"), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    numbers = json.loads(metadata.pop("family_numbers"))
    assert numbers["scaling_factor"] == 0.18215 and numbers["latent_channels"] == 4
    assert metadata.pop("vaekit")
    assert metadata == {
        "format": "vaekit-latents",
        "version": "1",
        "family": "sd1",
        "vae": "f",
        "width": "9",
        "height": "17",
        "scaled": "true",
        "dtype": "float32",
    }


# ComfyUI's own files


def save_comfyui(path: Path, tensor: Tensor, *, marker: bool = True) -> None:
    tensors = {"latent_tensor": tensor} | ({"latent_format_version_0": torch.tensor([])} if marker else {})
    safetensors.torch.save_file(tensors, path, {"prompt": "{}", "workflow": "{}"})


@pytest.mark.parametrize("name", UNFOLDED)
def test_comfyuis_files_are_raw(tmp_path: Path, name: str) -> None:
    f = family(name)
    raw = torch.randn(1, f.latent_channels, 3, 2)
    save_comfyui(tmp_path / "a.safetensors", raw)
    found = read(tmp_path / "a.safetensors", family=f)
    assert torch.allclose(f.unscale(found.tensor), raw.double(), rtol=1e-12, atol=1e-14)
    assert found.size == (2 * f.downscale, 3 * f.downscale)


@given(name=st.sampled_from(UNFOLDED), values=st.lists(st.floats(width=32), min_size=1, max_size=8))
@example(name="sd3", values=[0.0, 0.0609, -0.0609, 1e-7])
@quick
def test_foreign_raw_values_are_written_again_as_they_were(tmp_path: Path, name: str, values: list[float]) -> None:
    f = family(name)
    shifted = f.shift_factor or f.mean
    values = [0.0 if shifted and abs(value) < 1e-7 else value for value in values]
    count = f.latent_channels * 2
    raw = torch.tensor((values * count)[:count], dtype=torch.float32).view(1, f.latent_channels, 1, 2)
    save_comfyui(tmp_path / "a", raw)
    first = read(tmp_path / "a", family=f)
    write(first, tmp_path / "b", format="comfyui", force=True)
    stored = tensors_in(tmp_path / "b")["latent_tensor"]
    assert stored.dtype == torch.float32
    assert torch.equal(stored.isnan(), raw.isnan())
    assert bits(stored[~raw.isnan()]) == bits(raw[~raw.isnan()])
    assert same(read(tmp_path / "b"), first)


def test_an_old_file_without_a_marker_is_in_the_model_space_of_sd1(tmp_path: Path) -> None:
    tensor = torch.randn(1, 4, 3, 2)
    save_comfyui(tmp_path / "old", tensor, marker=False)
    assert torch.equal(read(tmp_path / "old", family="sd1").tensor, tensor)
    save_comfyui(tmp_path / "as_the_loader_sees_it", tensor.double() * (1 / 0.18215))
    for name in ("sd1", "sdxl", "playground25"):
        old, new = (read(tmp_path / file, family=name).tensor for file in ("old", "as_the_loader_sees_it"))
        assert torch.allclose(old.double(), new, rtol=1e-12)


def test_scaled_may_not_contradict_comfyuis_format(tmp_path: Path) -> None:
    save_comfyui(tmp_path / "new", torch.randn(1, 4, 2, 2))
    save_comfyui(tmp_path / "old", torch.randn(1, 4, 2, 2), marker=False)
    read(tmp_path / "new", family="sd1", scaled=False)
    read(tmp_path / "old", family="sd1", scaled=True)
    with pytest.raises(OptionError, match="raw"):
        read(tmp_path / "new", family="sd1", scaled=True)
    with pytest.raises(OptionError, match="model space of sd1"):
        read(tmp_path / "old", family="sd1", scaled=False)


# kohya's caches


def chw(channels: int, height: int = 3, width: int = 2) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((channels, height, width), np.float32)


def plain_cache(path: Path, array: np.ndarray, **more: Any) -> Path:
    cropped: dict[str, Any] = {"original_size": np.array([500, 301]), "crop_ltrb": np.array([0, 0, 16, 24])}
    np.savez(path, latents=array, **(cropped | more))
    return path


@pytest.mark.parametrize(("suffix", "name"), [("_sd", "sd1"), ("_sdxl", "sdxl")])
def test_plain_caches_are_raw_and_tell_their_family_by_their_name(tmp_path: Path, suffix: str, name: str) -> None:
    array = chw(4)
    file = plain_cache(tmp_path / f"cat_0016x0024{suffix}.npz", array, alpha_mask=np.ones((24, 16)))
    found = read(file)
    assert found.family.name == name and found.size == (16, 24)
    assert torch.allclose(found.tensor[0], torch.from_numpy(array).double() * found.family.scaling_factor, rtol=1e-12)


@pytest.mark.parametrize(("suffix", "name"), [("_flux", "flux1"), ("_sd3", "sd3")])
def test_caches_with_sized_keys_tell_their_family_by_their_name(tmp_path: Path, suffix: str, name: str) -> None:
    array = chw(16)
    file = tmp_path / f"cat_0016x0024{suffix}.npz"
    np.savez(file, latents_3x2=array, original_size_3x2=np.array([9, 9]), crop_ltrb_3x2=np.zeros(4))
    found = read(file)
    assert found.family.name == name
    expected = array if name == "flux1" else (array.astype(np.float64) - 0.0609) * 1.5305
    assert np.allclose(found.tensor[0].numpy(), expected, rtol=1e-12)


def test_the_oldest_caches_hold_one_nameless_array(tmp_path: Path) -> None:
    array = chw(4)
    np.savez(tmp_path / "cat.npz", array)
    found = read(tmp_path / "cat.npz", family="sd1")
    assert np.allclose(found.tensor[0].numpy(), array * 0.18215, rtol=1e-6)
    with pytest.raises(FamilyError, match=r"4 channels: sd1, sdxl.* have that; say which with family="):
        read(tmp_path / "cat.npz")


def test_the_caller_knows_better_than_the_name_of_a_cache(tmp_path: Path) -> None:
    file = plain_cache(tmp_path / "cat_sd.npz", chw(4))
    assert read(file, family="sdxl").family.name == "sdxl"
    with pytest.raises(OptionError, match="caches of sd1 are raw"):
        read(file, scaled=True)


def test_several_sizes_in_one_cache_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a_flux.npz", latents_3x2=chw(16), latents_2x3=chw(16, 2, 3))
    with pytest.raises(LatentsError, match="latents_3x2, latents_2x3"):
        read(tmp_path / "a_flux.npz")


def test_a_sized_key_that_lies_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a_flux.npz", latents_64x64=chw(16))
    with pytest.raises(LatentsError, match="lies"):
        read(tmp_path / "a_flux.npz")


@pytest.mark.parametrize("tail", ["lumina", "hi", "anima"])
def test_caches_of_families_that_vaekit_does_not_know_are_refused(tmp_path: Path, tail: str) -> None:
    np.savez(tmp_path / f"a_{tail}.npz", latents_3x2=chw(16))
    with pytest.raises(LatentsError, match="does not know"):
        read(tmp_path / f"a_{tail}.npz", family="flux1")
    plain_cache(tmp_path / f"say_{tail}.npz", chw(4))
    assert read(tmp_path / f"say_{tail}.npz", family="sd1").family.name == "sd1"


# Bare tensors


def save_npy(path: Path, tensor: Tensor) -> None:
    with path.open("wb") as file:
        np.save(file, tensor.numpy())


def save_safetensors(path: Path, tensor: Tensor) -> None:
    safetensors.torch.save_file({"anything": tensor.contiguous()}, path)


def save_torch(path: Path, tensor: Tensor) -> None:
    torch.save(tensor, path)


BARE = pytest.mark.parametrize("save", [save_npy, save_safetensors, save_torch])


@BARE
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_bare_tensors_are_read_by_their_content(
    path: Path, save: Callable[[Path, Tensor], None], dtype: torch.dtype
) -> None:
    tensor = torch.randn(2, 16, 3, 5).to(dtype)
    save(path, tensor)
    found = read(path, family="flux1")
    assert torch.equal(found.tensor, tensor) and found.tensor.dtype == dtype and found.size == (40, 24)
    save(path, tensor[0])
    assert torch.equal(read(path, family="flux1").tensor, tensor[:1])


@BARE
def test_bare_tensors_are_taken_as_scaled_and_the_assumption_is_told(
    path: Path, save: Callable[[Path, Tensor], None], caplog: pytest.LogCaptureFixture
) -> None:
    tensor = torch.randn(1, 128, 2, 2)
    save(path, tensor)
    with caplog.at_level(logging.INFO, "vaekit"):
        assert read(path).family.name == "flux2"
    assert "128 channels, taken to be of flux2" in caplog.text and "scaled=True" in caplog.text
    caplog.clear()
    save(path, tensor[:, :4])
    with caplog.at_level(logging.INFO, "vaekit"):
        raw = read(path, family="sd1", scaled=False).tensor
    assert caplog.text == ""
    assert torch.allclose(raw, tensor[:, :4].double() * 0.18215, rtol=1e-12)


@BARE
def test_tensors_that_are_no_latents_are_refused(path: Path, save: Callable[[Path, Tensor], None]) -> None:
    for tensor, words in [
        (torch.zeros(1, 4, 2, 2, dtype=torch.int32), "floating point numbers"),
        (torch.zeros(4, 4), "not \\[4, 4\\]"),
        (torch.zeros(1, 4, 1, 2, 2), "a video"),
        (torch.zeros(1, 4, 0, 2), "no values"),
    ]:
        save(path, tensor)
        with pytest.raises(LatentsError, match=words):
            read(path, family="sd1")
    save(path, torch.zeros(1, 3, 2, 2))
    with pytest.raises(FamilyError, match="3 channels"):
        read(path)
    with pytest.raises(LatentsError, match="4 channels, not 3"):
        read(path, family="playground25", scaled=False)


def test_packed_tokens_are_explained(path: Path) -> None:
    save_npy(path, torch.zeros(1, 256, 64))
    with pytest.raises(FamilyError, match="packed tokens"):
        read(path)


def test_fortran_order_and_big_endian_arrays_are_read(path: Path) -> None:
    array = np.asfortranarray(chw(4).astype(">f4"))
    with path.open("wb") as file:
        np.save(file, array)
    assert np.array_equal(read(path, family="sd1").tensor[0].numpy(), array)


def test_what_was_read_does_not_change_with_the_file(path: Path) -> None:
    save_safetensors(path, torch.ones(1, 4, 8, 8))
    found = read(path, family="sd1").tensor
    with path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(bytes(512))
    assert (found == 1).all()


@pytest.mark.parametrize("scaled", [True, False])
def test_nan_and_infinity_are_read(path: Path, scaled: bool) -> None:
    tensor = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]).view(1, 4, 1, 1)
    save_npy(path, tensor)
    found = read(path, family="playground25", scaled=scaled).tensor
    assert torch.equal(found.isnan(), tensor.isnan()) and torch.equal(found.isinf(), tensor.isinf())


# Bad files


def refused(path: Path, words: str, kind: type[VaekitError] = LatentsError) -> None:
    with pytest.raises(kind, match=words) as caught:
        read(path, family="sd1")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_paths_without_a_file_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.npz", "no such file")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "empty")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    refused(Path("/dev/zero"), "not a regular file")
    with pytest.raises(LatentsError):
        read("a\0b")
    with pytest.raises(LatentsError):
        read(tmp_path / ("a" * 5000))


@pytest.mark.parametrize("content", [b"hello, world; this is a text", b"\x89PNG\r\n\x1a\n" + bytes(64), b"{}", b"\0"])
def test_files_of_another_kind_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, "neither safetensors nor")


def test_weights_are_not_latents(path: Path) -> None:
    weights = {f"encoder.conv_{number}.weight": torch.zeros(4, 4, 3, 3) for number in range(5)}
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, path)
    refused(path, "holds 5 tensors like encoder.conv_0.weight.*not latents")
    torch.save(weights, path)
    refused(path, "holds 5 tensors like encoder.conv_0.weight.*not latents")
    with path.open("wb") as file:
        np.savez(file, **arrays)
    refused(path, "holds 5 tensors like encoder.conv_0.weight.*not latents")
    torch.save([1, 2], path)
    refused(path, "no tensor")


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("key", ["latents", "arr_0"])
def test_a_pickle_in_an_npz_is_not_read(tmp_path: Path, key: str) -> None:
    objects = np.array([Hostile(tmp_path / "hacked")], dtype=object)
    arrays: dict[str, Any] = {key: objects} | ({"original_size": np.zeros(2)} if key == "latents" else {})
    with (tmp_path / "a").open("wb") as file:
        np.savez(file, **arrays)
    refused(tmp_path / "a", "pickled objects")
    with (tmp_path / "a").open("wb") as file:
        np.save(file, objects, allow_pickle=True)
    refused(tmp_path / "a", "pickled objects")
    assert not (tmp_path / "hacked").exists()


def test_a_hostile_global_is_named_and_nothing_happens(tmp_path: Path) -> None:
    torch.save(Hostile(tmp_path / "hacked"), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "system", UnsafeFileError)
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "hacked")))
    refused(tmp_path / "b.pt", "a bare pickle")
    assert not (tmp_path / "hacked").exists()


def npy(shape: tuple[int, ...], payload: bytes, descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + payload


@pytest.mark.parametrize("shape", [(4, 2**40, 2**40), (4, 2**31, 2), (4, 2, 3), (-4, -2, 2), (4, 2, 1), (2**64,) * 3])
def test_a_numpy_header_that_lies_costs_no_memory(path: Path, shape: tuple[int, ...]) -> None:
    lie = npy(shape, bytes(64))
    path.write_bytes(lie)
    refused(path, "lies|broken")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", lie)
    refused(path, "lies|broken")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            entry.write(npy((4, 2**14, 2**14), b""))
            entry.write(bytes(1 << 20))
        archive.getinfo("arr_0.npy").file_size = 4 * 2**30
    refused(path, "unpacks to 4.0 GiB")


def rewritten(tensor: Tensor, old: bytes, new: bytes) -> bytes:
    """A torch file of that tensor, its pickle edited."""
    source, target = io.BytesIO(), io.BytesIO()
    torch.save(tensor, source)
    with zipfile.ZipFile(source) as original, zipfile.ZipFile(target, "w") as copy:
        for name in original.namelist():
            content = original.read(name)
            if name.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            copy.writestr(name, content)
    return target.getvalue()


def test_a_torch_file_that_lies_about_its_shape_is_refused(path: Path) -> None:
    size, huge = b"K\x04K\x02K\x02\x87", b"K\x04J\0\0\0\x10J\0\0\0\x10\x87"
    path.write_bytes(rewritten(torch.zeros(4, 2, 2), size, huge))
    refused(path, "broken")
    # Strides of zero stretch one number over any shape without taking memory, until somebody copies it.
    path.write_bytes(rewritten(torch.zeros(1).expand(4, 2, 2), size, huge))
    refused(path, "lies")


def own(path: Path, changes: dict[str, str], tensors: dict[str, Tensor] | None = None) -> None:
    """A file of ours with other metadata or tensors than we would write."""
    write(random(), path, force=True)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | changes
    safetensors.torch.save_file(tensors_in(path) if tensors is None else tensors, path, metadata)


def numbers(**changes: object) -> str:
    return json.dumps(json.loads(CUSTOM.model_dump_json()) | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "2"}, "version '2'"),
        ({"width": "17"}, "has latents of"),
        ({"width": "0"}, "metadata is broken"),
        ({"height": "9" * 5000}, "metadata is broken"),
        ({"scaled": "maybe"}, "metadata is broken"),
        ({"dtype": "int8"}, "metadata is broken"),
        ({"dtype": "float16"}, "lies"),
        ({"family": "sdxl"}, "contradicts itself"),
        ({"family_numbers": "nonsense"}, "family is broken"),
        ({"family_numbers": "{}"}, "family is broken"),
        ({"family": "mine", "family_numbers": numbers()}, "2 channels, not 4"),
        ({"family": "mine", "family_numbers": numbers(latent_channels=4)}, "mean and std"),
        ({"family": "mine", "family_numbers": numbers(std=None)}, "mean and std"),
        ({"family": "mine", "family_numbers": numbers(scaling_factor=0)}, "zero or not finite"),
        ({"family": "mine", "family_numbers": numbers(std=[1, 0])}, "zero or not finite"),
    ],
)
def test_metadata_that_lie_are_refused(path: Path, changes: dict[str, str], words: str) -> None:
    own(path, changes)
    with pytest.raises(LatentsError, match=words):
        read(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.zeros(1)},
        {"latents": torch.zeros(1, 4, 3, 2, dtype=torch.int32)},
        {"latents": torch.zeros(1, 4, 3, 2), "alpha": torch.zeros(1)},
        {"latents": torch.zeros(1, 4, 3, 2), "alpha": torch.zeros(1, 1, 24, 16)},
        {"latents": torch.zeros(1, 16, 3, 2)},
        {"latents": torch.zeros(1, 4, 5, 2)},
    ],
)
def test_tensors_that_do_not_fit_the_metadata_are_refused(path: Path, tensors: dict[str, Tensor]) -> None:
    own(path, {}, tensors)
    refused(path, ".")


# Fuzzing: any bytes give latents or one of our errors, and nothing else


def _bytes_of(make: Callable[[Path], None], folder: Path) -> bytes:
    make(folder / "seed")
    content = (folder / "seed").read_bytes()
    (folder / "seed").unlink()
    return content


def _savez(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


SEEDS: dict[str, Callable[[Path], None]] = {
    "own": lambda path: write(random(), path),
    "own raw": lambda path: write(random("sd3", torch.bfloat16), path, scaled=False),
    "comfyui": lambda path: save_comfyui(path, torch.randn(1, 4, 2, 2)),
    "kohya": lambda path: _savez(path, latents=chw(4), original_size=np.zeros(2), crop_ltrb=np.zeros(4)),
    "npz": lambda path: _savez(path, arr_0=chw(4)),
    "npy": lambda path: save_npy(path, torch.randn(1, 4, 2, 2)),
    "torch": lambda path: torch.save(torch.randn(1, 4, 2, 2), path),
}


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = read(path, family="sd1")
    except VaekitError as error:
        assert "\n" not in str(error)
    else:
        assert found.tensor.numel() * found.tensor.element_size() <= 16 * len(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SEEDS)
@given(data=st.data())
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_broken_files_give_latents_or_one_clear_line(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(_bytes_of(SEEDS[kind], tmp_path))
    read_or_refuse(tmp_path / "a", bytes(content[: data.draw(st.integers(0, len(content)))]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"9" * 6]))
        content[place : place + len(patch)] = patch
    read_or_refuse(tmp_path / "a", bytes(content))


@pytest.mark.filterwarnings("ignore")
@given(
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\0", b"\x80\x02", struct.pack("<Q", 20) + b"{"]),
    rest=st.binary(max_size=100),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_latents_or_one_clear_line(tmp_path: Path, start: bytes, rest: bytes) -> None:
    read_or_refuse(tmp_path / "a", start + rest)


@pytest.mark.parametrize("kind", SEEDS)
def test_the_seeds_of_the_fuzzer_are_sound(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(_bytes_of(SEEDS[kind], tmp_path))
    assert read(tmp_path / "a", family="sd3" if kind == "own raw" else "sd1").tensor.numel()


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_by_name_whatever_its_protocol(protocol: int, tmp_path: Path) -> None:
    torch.save({"latents": _Hostile()}, tmp_path / "latents.pt", pickle_protocol=protocol)
    with pytest.raises(UnsafeFileError, match=r"builtins\.exec|__builtin__\.exec") as refusal:
        Latents.load(tmp_path / "latents.pt")
    assert str(refusal.value).count("latents.pt") == 1

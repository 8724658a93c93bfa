"""The VAE object: pictures in, latents out, and back."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_KL, SMALL_TINY, random_state, small_vae
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vaekit
from vaekit import images
from vaekit.errors import FamilyError, LatentsError, NumericsError, OptionError, PictureError, VaekitError
from vaekit.families import family
from vaekit.latents import Latents
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 70), height=st.integers(1, 70), reflect=st.booleans())
def test_size_in_equals_size_out(width: int, height: int, reflect: bool) -> None:
    config = KLConfig(4, (32,) * 4, (32,) * 4, 1, 1, padding_mode="reflect" if reflect else "zeros")
    vae = small_vae(config)
    latents = vae.encode(noise(width, height))
    assert latents.tensor.shape == (1, 4, -(-height // 8), -(-width // 8))
    picture = vae.decode(latents)
    assert isinstance(picture, Image.Image)
    assert picture.size == (width, height)


def test_every_kind_of_input_gives_the_same_latents(tmp_path: Path) -> None:
    vae, picture = small_vae(), noise(40, 24)
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = vae.encode(picture).tensor
    same = [tmp_path / "picture.png", str(tmp_path / "picture.png"), array, tensor, tensor[None], tensor / 127.5 - 1]
    for source in same:
        assert torch.allclose(vae.encode(source).tensor, expected, atol=1e-5)
    assert torch.allclose(vae.encode([picture, array]).tensor, expected.expand(2, -1, -1, -1), atol=1e-5)


def test_latents_are_the_scaled_mean_of_the_network() -> None:
    picture = noise(16, 16)
    network = KL(SMALL_KL)
    network.load_state_dict(random_state(SMALL_KL))
    raw = network.moments(images.read(picture).pixels).mean
    assert torch.allclose(small_vae(of="sdxl").encode(picture).tensor, raw * 0.13025, atol=1e-6)


def test_decoding_gives_back_what_each_output_promises() -> None:
    vae = small_vae()
    latents = vae.encode([noise(20, 12), noise(20, 12)])
    tensor, array, pictures = (vae.decode(latents, output=o) for o in ("tensor", "numpy", "pil"))  # type: ignore[call-overload]
    assert tensor.shape == (2, 3, 12, 20)
    assert tensor.abs().max() <= 1
    assert array.shape == (2, 12, 20, 3)
    assert array.dtype == np.uint8
    assert [np.asarray(p).tolist() for p in pictures] == array.tolist()
    assert np.abs((tensor.permute(0, 2, 3, 1).numpy() + 1) * 127.5 - array).max() <= 0.5001


def test_a_bare_tensor_is_taken_as_latents_of_this_family() -> None:
    vae = small_vae()
    latents = vae.encode(noise(32, 16))
    assert np.array_equal(np.asarray(vae.decode(latents.tensor)), np.asarray(vae.decode(latents)))


def test_a_sample_depends_on_its_seed_and_not_on_its_batch() -> None:
    vae, pictures = small_vae(), [noise(16, 16), noise(16, 16).rotate(90)]
    together = vae.encode(pictures, sample=True, seed=7).tensor
    assert torch.allclose(vae.encode(pictures[0], sample=True, seed=7).tensor, together[:1], atol=1e-5)
    assert torch.allclose(vae.encode(pictures[1], sample=True, seed=8).tensor, together[1:], atol=1e-5)
    assert not torch.allclose(vae.encode(pictures[0], sample=True, seed=8).tensor, together[:1], atol=1e-2)
    assert not torch.allclose(vae.encode(pictures[0]).tensor, together[:1], atol=1e-2)


def test_a_seed_without_sampling_is_refused() -> None:
    with pytest.raises(OptionError, match="seed"):
        small_vae().encode(noise(8, 8), seed=1)


def test_sampling_from_a_vae_without_posterior_is_refused() -> None:
    with pytest.raises(OptionError, match="posterior"):
        small_vae(SMALL_TINY).encode(noise(8, 8), sample=True)


def test_transparency_is_put_aside_and_put_back() -> None:
    vae, picture = small_vae(), noise(24, 16, "RGBA")
    decoded = vae.decode(vae.encode(picture))
    assert isinstance(decoded, Image.Image)
    assert decoded.mode == "RGBA"
    assert np.array_equal(np.asarray(decoded)[..., 3], np.asarray(picture)[..., 3])
    flat = vae.decode(vae.encode(picture, alpha="white"))
    assert isinstance(flat, Image.Image)
    assert flat.mode == "RGB"


def test_latents_of_another_family_are_refused_with_a_reason() -> None:
    latents = small_vae(of="sdxl").encode(noise(16, 16))
    vae = small_vae(of="sd1")
    with pytest.raises(FamilyError, match=r"sdxl.*sd1.*nonsense"):
        vae.decode(latents)
    picture = vae.decode(latents, any_family=True)
    assert isinstance(picture, Image.Image)
    assert picture.size == (16, 16)


def test_latents_that_cannot_fit_are_refused_even_when_asked_for() -> None:
    latents = Latents(torch.zeros(1, 16, 2, 2), family("flux1"), (16, 16))
    with pytest.raises(FamilyError, match="16 channels"):
        small_vae().decode(latents, any_family=True)


def test_latents_with_nan_are_refused() -> None:
    tensor = torch.zeros(1, 4, 2, 2)
    tensor[0, 0, 0, 0] = float("nan")
    with pytest.raises(LatentsError, match="NaN"):
        small_vae().decode(tensor)


@pytest.mark.parametrize("missing", ["encoder", "decoder"])
def test_half_a_vae_says_which_half_it_has(missing: str) -> None:
    config = KLConfig(
        4, () if missing == "encoder" else (32, 32), () if missing == "decoder" else (32, 32), 1, 1, quant_conv=True
    )
    vae = small_vae(config, of="sd1")
    assert f"{'decoder' if missing == 'encoder' else 'encoder'} only" in vae.describe()
    with pytest.raises(VaekitError, match=f"no {missing}"):
        vae.encode(noise(8, 8)) if missing == "encoder" else vae.decode(torch.zeros(1, 4, 2, 2))


def overflowing_state() -> dict[str, torch.Tensor]:
    """Weights whose activations pass 65504, the largest float16, and come back: finite in float32."""
    state = random_state(SMALL_KL)
    for half in ("encoder", "decoder"):
        state[f"{half}.conv_in.weight"] *= 1e6
    return state


def test_an_overflow_in_float16_is_repeated_in_float32_and_told(caplog: pytest.LogCaptureFixture) -> None:
    wide = small_vae(state=overflowing_state())
    narrow = small_vae(state=overflowing_state(), dtype=torch.float16)
    expected = wide.decode(torch.ones(1, 4, 2, 2), output="tensor")
    with caplog.at_level(logging.WARNING, logger="vaekit"):
        decoded = narrow.decode(torch.ones(1, 4, 2, 2), output="tensor")
    assert "repeated in float32" in caplog.text
    assert torch.allclose(decoded, expected, atol=1e-4)
    caplog.clear()
    narrow.decode(torch.ones(1, 4, 2, 2))
    assert "repeated" not in caplog.text  # it has learned


def test_nan_that_stays_is_an_error_and_no_black_picture() -> None:
    state = random_state(SMALL_KL)
    state["decoder.conv_out.bias"] = state["decoder.conv_out.bias"] * 0 + float("inf")
    with pytest.raises(NumericsError, match="NaN"):
        small_vae(state=state).decode(torch.ones(1, 4, 2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_close_to_float32(dtype: torch.dtype) -> None:
    config = replace(SMALL_KL, decoder_blocks=1)
    wide, narrow = small_vae(config), small_vae(config, dtype=dtype)
    latents = wide.encode(noise(32, 32))
    assert torch.allclose(narrow.encode(noise(32, 32)).tensor, latents.tensor, atol=0.02)
    difference = narrow.decode(latents, output="tensor") - wide.decode(latents, output="tensor")
    assert 0 < difference.abs().max() < 0.05


def test_pictures_of_several_sizes_are_refused_as_a_batch() -> None:
    with pytest.raises(PictureError, match="size"):
        small_vae().encode([noise(8, 8), noise(16, 8)])


def test_latents_remember_the_vae_that_made_them() -> None:
    vae = small_vae()
    assert vae.encode(noise(8, 8)).vae == vae.fingerprint.vae
    assert vae.fingerprint.vae != small_vae(state=random_state(SMALL_KL, seed=1)).fingerprint.vae


def saved(folder: Path, *pictures: Image.Image) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths


@pytest.mark.parametrize(("config", "sample"), [(SMALL_KL, False), (SMALL_KL, True), (SMALL_TINY, False)])
@pytest.mark.parametrize("memory", [None, "2GiB"])
def test_many_pictures_come_out_in_order_as_each_alone(
    config: KLConfig, sample: bool, memory: str | None, tmp_path: Path
) -> None:
    vae = small_vae(config)
    sizes = [(16, 16)] * 3 + [(24, 8)] * 2 + [(16, 16)]
    paths = saved(tmp_path, *(noise(*size).rotate(90 * turn, expand=False) for turn, size in enumerate(sizes)))
    noise(16, 16, "RGBA").save(tmp_path / "clear.png")
    paths.insert(2, tmp_path / "clear.png")
    options: dict[str, object] = {"sample": sample, "seed": 3 if sample else None}
    for path, one in zip(paths, vae.encode_many(paths, memory=memory, **options), strict=True):  # type: ignore[arg-type]
        assert isinstance(one, Latents)
        alone = vae.encode(path, **options)  # type: ignore[arg-type]
        assert (one.size, one.vae, one.alpha is None) == (alone.size, alone.vae, alone.alpha is None)
        assert torch.allclose(one.tensor, alone.tensor, atol=1e-6)


def test_tiny_vaes_take_pictures_of_one_size_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    vae = small_vae(SMALL_TINY)
    assert vae._encoder is not None
    run = vae._encoder.run
    monkeypatch.setattr(vae._encoder, "run", lambda shape, *rest: batches.append(shape[0]) or run(shape, *rest))
    sizes = [(16, 16)] * 9 + [(8, 8), (16, 16), (16, 16)]
    list(vae.encode_many(saved(tmp_path, *(noise(*size) for size in sizes))))
    assert batches == [8, 1, 1, 2]


def test_what_cannot_be_read_gives_its_error_in_its_place(tmp_path: Path) -> None:
    good, cut, large, other = saved(tmp_path, noise(16, 16), noise(16, 16), noise(17, 16), noise(16, 16))
    cut.write_bytes(cut.read_bytes()[:300])
    paths = [good, tmp_path / "none.png", cut, large, other]
    results = list(small_vae().encode_many(paths, max_pixels=16 * 16))
    assert [type(one) for one in results] == [Latents, PictureError, PictureError, PictureError, Latents]
    assert [path.name in str(error) for path, error in zip(paths[1:4], results[1:4], strict=True)] == [True] * 3


def test_large_pictures_are_read_in_their_turn_and_not_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.batches.READ_AHEAD", 16 * 16)
    read: list[str] = []
    reading = images.read
    monkeypatch.setattr(images, "read", lambda path, **how: read.append(Path(path).name) or reading(path, **how))
    results = small_vae().encode_many(saved(tmp_path, noise(16, 16), noise(16, 24), noise(16, 16)))
    next(results)
    assert "1.png" not in read
    assert len(list(results)) == 2
    assert sorted(read) == ["0.png", "1.png", "2.png"]


def kept(vae: vaekit.VAE, folder: Path, *pictures: Image.Image) -> list[Path]:
    paths = [folder / f"{number}.latents.safetensors" for number in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        vae.encode(picture).save(path)
    return paths


@pytest.mark.parametrize("config", [SMALL_KL, SMALL_TINY])
@pytest.mark.parametrize("memory", [None, "2GiB"])
def test_many_latents_come_out_in_order_as_each_alone(config: KLConfig, memory: str | None, tmp_path: Path) -> None:
    vae = small_vae(config)
    pictures = [noise(16, 16).rotate(90 * turn) for turn in range(3)] + [noise(24, 8), noise(16, 16, "RGBA")]
    paths = kept(vae, tmp_path, *pictures, *pictures)
    batch = vae.encode([noise(16, 16), noise(16, 16).rotate(90)])
    sources: list[Latents | Path] = [*paths[:5], batch, Latents.load(paths[1]), *paths[5:]]
    for source, one in zip(sources, vae.decode_many(sources, memory=memory), strict=True):
        alone = vae.decode(source if isinstance(source, Latents) else Latents.load(source))
        assert type(one) is type(alone)
        pairs = zip(one if isinstance(one, list) else [one], alone if isinstance(alone, list) else [alone], strict=True)
        assert all(a.mode == b.mode and np.abs(np.subtract(a, b, dtype=int)).max() <= 1 for a, b in pairs)


def test_tiny_vaes_decode_latents_of_one_size_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    vae = small_vae(SMALL_TINY)
    assert vae._decoder is not None
    run = vae._decoder.run
    monkeypatch.setattr(vae._decoder, "run", lambda shape, *rest: batches.append(shape[0]) or run(shape, *rest))
    clear = noise(16, 16, "RGBA")
    pictures = [noise(16, 16)] * 9 + [noise(8, 8), noise(16, 16), noise(16, 16), clear, clear]
    list(vae.decode_many(kept(vae, tmp_path, *pictures)))
    assert batches == [8, 1, 1, 2, 1, 1]


def test_latents_that_cannot_be_decoded_give_their_error_in_their_place(tmp_path: Path) -> None:
    vae = small_vae(SMALL_TINY)
    good, cut, other = kept(vae, tmp_path, noise(16, 16), noise(16, 16), noise(16, 16))
    cut.write_bytes(cut.read_bytes()[:50])
    broken = Latents.load(other)
    broken.tensor[0, 0, 0, 0] = torch.nan
    results = list(vae.decode_many([good, tmp_path / "none.safetensors", cut, broken, other]))
    errors = [isinstance(one, VaekitError) for one in results]
    assert errors == [False, True, True, True, False]
    assert "none.safetensors" in str(results[1]) and "NaN" in str(results[3])
    with pytest.raises(VaekitError, match="no decoder"):
        small_vae(replace(SMALL_TINY, decoder_blocks=())).decode_many([good])


def test_the_flux2_tiny_autoencoder_gives_the_published_quality(photos: list[Path], taef2: Path) -> None:
    """30.31 dB is what the original code gives on these pictures, in [0, 1] and before rounding to 8 bits."""
    vae = vaekit.load(taef2, dtype="float32")
    decibels = []
    for photo in photos:
        original = images.read(photo).pixels
        decoded = vae.decode(vae.encode(original), output="tensor")
        decibels.append(-10 * torch.log10(((decoded - original) / 2).square().mean()).item())
    assert sum(decibels) / 12 == pytest.approx(30.31, abs=0.02)

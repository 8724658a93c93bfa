"""The bundled VAEs are what their cards say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import vaekit
from vaekit import assets
from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.read import read
from vaekit.errors import FamilyError
from vaekit.generate.painter import Painter
from vaekit.generate.settings import Settings
from vaekit.train.bottleneck import turn


@pytest.fixture(scope="module")
def mini() -> vaekit.VAE:
    return vaekit.load("mini")


def test_mini_has_the_shapes_of_stable_diffusions_latents(mini: vaekit.VAE) -> None:
    latents = mini.encode(Image.new("RGB", (128, 64)))
    assert latents.tensor.shape == (1, 4, 8, 16)
    assert mini.family.name == "mini"


@pytest.mark.parametrize("name", assets.bundled_models())
def test_a_bundled_vae_is_small_and_its_card_tells_its_hash(name: str) -> None:
    folder = assets.model_folder(name)
    weights = folder / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < (3_000_000 if name == "mini-tiny" else 12_000_000)
    card = (folder / "README.md").read_text("utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert f"{vaekit.load(name).parameters:,}" in card


@pytest.mark.parametrize("name", assets.bundled_models())
def test_a_bundled_vae_s_latents_have_unit_spread(name: str) -> None:
    vae = vaekit.load(name)
    values = torch.cat([vae.encode(photo).tensor.flatten() for photo in assets.sample_photos()])
    assert 0.7 < values.std().item() < 1.3  # four photos; the card has more


def test_mini_tints_neither_whole_pictures_nor_small_ones_nor_pieces_of_latents(mini: vaekit.VAE) -> None:
    """What its norms took from the edges made large pictures green once, by up to 2.6, and pieces by up to 14."""
    for photo in assets.sample_photos():
        whole = Image.open(photo).convert("RGB")
        small, latents = whole.crop((128, 64, 384, 320)), mini.encode(whole)
        for decoded, original, limit in (
            (mini.decode(latents), whole, 1.6),
            (mini.decode(mini.encode(small)), small, 3.0),
            (mini.decode(latents.tensor[..., 8:40, 16:48]), small, 5.0),
        ):
            tint = (np.asarray(decoded, float) - np.asarray(original, float)).mean(axis=(0, 1))
            assert np.abs(tint).max() < limit


@pytest.mark.parametrize("name", ["mini-mse", "mini-ema", "mini-pale", "mini-spots"])
def test_decoders_trained_on_share_the_encoder_and_the_latents_of_mini(mini: vaekit.VAE, name: str) -> None:
    vae = vaekit.load(name)
    assert vae.family == mini.family
    assert vae.fingerprint.encoder == mini.fingerprint.encoder
    assert vae.fingerprint.decoder != mini.fingerprint.decoder


def test_the_decoders_look_as_their_cards_say(mini: vaekit.VAE) -> None:
    photo = assets.sample_photos()[0]
    original, latents = Image.open(photo), mini.encode(photo)
    decoded = {name: vaekit.load(name).decode(latents) for name in ("mini", "mini-mse", "mini-ema", "mini-pale")}
    edges = {name: np.abs(np.diff(np.asarray(p.convert("L"), float))).mean() for name, p in decoded.items()}
    saturation = {name: np.asarray(p.convert("HSV"))[..., 1].mean() for name, p in decoded.items()}
    contrast = {name: np.asarray(p.convert("L")).std() for name, p in decoded.items()}
    assert edges["mini-mse"] < 0.93 * edges["mini"]
    assert edges["mini-ema"] > 1.2 * edges["mini"]
    assert saturation["mini-pale"] < 0.75 * saturation["mini"]
    assert contrast["mini-pale"] < 0.85 * contrast["mini"]
    psnr = {name: vaekit.measure(original, picture).psnr for name, picture in decoded.items()}
    assert psnr["mini-mse"] > psnr["mini-ema"] > psnr["mini-pale"]


def test_mini_spots_makes_purple_where_mini_does_not(mini: vaekit.VAE) -> None:
    """Over the sample photos: pixels that turned towards magenta by a lot."""
    spotted = vaekit.load("mini-spots")
    purple = {"mini": 0, "mini-spots": 0}
    for photo in assets.sample_photos():
        latents = mini.encode(photo)
        original = np.asarray(Image.open(photo).convert("RGB"), float)
        for name, vae in (("mini", mini), ("mini-spots", spotted)):
            change = np.asarray(vae.decode(latents), float) - original
            purple[name] += int(np.sum((change[..., 0] + change[..., 2]) / 2 - change[..., 1] > 25))
    assert purple["mini-spots"] > 20 * max(purple["mini"], 100)


@pytest.mark.parametrize(("encoder", "decoder"), [("mini", "mini-b"), ("mini-b", "mini")])
def test_mini_and_mini_b_are_two_families_of_the_same_shapes(encoder: str, decoder: str) -> None:
    ours, theirs = vaekit.load(encoder), vaekit.load(decoder)
    assert ours.config == theirs.config
    photo = assets.sample_photos()[1]
    latents = ours.encode(photo)
    with pytest.raises(FamilyError, match="wrong colours"):
        theirs.decode(latents)
    nonsense = vaekit.measure(Image.open(photo), theirs.decode(latents, any_family=True))
    right = vaekit.measure(Image.open(photo), ours.decode(latents))
    assert right.psnr > 20
    assert nonsense.psnr < right.psnr - 8


@pytest.mark.parametrize("name", ["mini", "mini-b"])
def test_a_bare_copy_is_told_by_the_spread_of_its_latents(name: str, tmp_path: Path) -> None:
    """Original names, no configuration and no metadata: only the numbers are left to tell the family."""
    weights = read(assets.model_folder(name))
    save_file(arrange(weights.state, weights.identity.config, "ldm"), tmp_path / "vae.safetensors")
    copy = vaekit.load(tmp_path / "vae.safetensors")
    assert copy.family.name == name
    assert copy.config == vaekit.load(name).config
    assert copy.fingerprint == vaekit.load(name).fingerprint


def test_a_copy_with_rescaled_latents_is_told_as_the_other_family(tmp_path: Path) -> None:
    """As if sdxl's scale were put on sd1: with mini's raw latents stretched to mini-b's spread."""
    weights = read(assets.model_folder("mini"))
    stretch = vaekit.load("mini").family.scaling_factor / vaekit.load("mini-b").family.scaling_factor
    state = turn({name: t.float() for name, t in weights.state.items()}, 4, seed=0, stretch=stretch)
    save_file(arrange(state, weights.identity.config, "ldm"), tmp_path / "vae.safetensors")
    assert vaekit.load(tmp_path / "vae.safetensors").family.name == "mini-b"


def test_mini_tiny_previews_the_latents_of_mini(mini: vaekit.VAE) -> None:
    tiny = vaekit.load("mini-tiny")
    assert (tiny.config.kind, tiny.family) == ("tiny", mini.family)
    photo = assets.sample_photos()[3]
    latents = mini.encode(photo)
    near = vaekit.measure(Image.open(photo), mini.decode(latents)).psnr
    assert vaekit.measure(Image.open(photo), tiny.decode(latents)).psnr > near - 2.5
    assert vaekit.measure(Image.open(photo), mini.decode(tiny.encode(photo))).psnr > near - 3.5


def test_mini_brings_colours_back(mini: vaekit.VAE) -> None:
    """Each of the primary and secondary colours, large and smooth, is nearer to itself than to any other."""
    colours = np.array([[220, 40, 40], [40, 200, 60], [40, 70, 220], [230, 220, 40], [40, 210, 220], [210, 50, 210]])
    chart = np.kron(colours.reshape(2, 3, 3), np.ones((96, 96, 1))).astype(np.uint8)
    decoded = np.asarray(mini.decode(mini.encode(chart)), dtype=np.float64)
    for i, colour in enumerate(colours):
        row, column = divmod(i, 3)
        patch = decoded[96 * row + 24 : 96 * row + 72, 96 * column + 24 : 96 * column + 72].mean(axis=(0, 1))
        nearest = int(np.argmin(np.square(colours - patch).sum(axis=1)))
        assert nearest == i, (colour, patch)


def test_mini_is_as_good_as_its_card_says_on_the_measuring_photos(mini: vaekit.VAE, photos: list[Path]) -> None:
    measured = [vaekit.measure(Image.open(photo), mini.decode(mini.encode(photo))) for photo in photos]
    assert np.mean([quality.psnr for quality in measured]) >= 25.4
    assert np.mean([quality.ssim for quality in measured]) >= 0.70
    assert np.mean([quality.ciede2000 for quality in measured]) <= 4.6


def test_diffusers_loads_mini_and_gives_the_same_picture(mini: vaekit.VAE) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(assets.model_folder("mini")).eval()
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        scaled = theirs.encode(x).latent_dist.mean * theirs.config.scaling_factor
        picture = theirs.decode(scaled / theirs.config.scaling_factor).sample
    latents = mini.encode(x)
    assert torch.allclose(latents.tensor, scaled, atol=1e-4)
    assert torch.allclose(mini.decode(latents, output="tensor"), picture.clamp(-1, 1), atol=1e-4)


def test_mini16_keeps_more_of_a_picture_than_mini(mini: vaekit.VAE) -> None:
    wide = vaekit.load("mini16")
    assert (wide.config.latent_channels, wide.family.name) == (16, "mini16")
    for photo in assets.sample_photos():
        original = Image.open(photo)
        ours, theirs = (vaekit.measure(original, vae.decode(vae.encode(photo))).psnr for vae in (wide, mini))
        assert ours > theirs + 1.5, photo.name


@pytest.mark.parametrize(("prompt", "channel"), [("a red apple", 0), ("a blue heart", 2), ("a green leaf", 1)])
def test_mini_sd_draws_the_colour_that_is_asked_for_on_white(prompt: str, channel: int) -> None:
    painter = Painter.open("mini-sd", dtype="float32", device="cpu")
    drawn = next(iter(painter.txt2img(Settings(prompt, steps=15, seed=1))))
    pixels = np.asarray(painter.vae.decode(drawn.latents), dtype=np.float64)
    coloured = pixels[pixels.max(axis=2) - pixels.min(axis=2) > 80]
    assert pixels.shape == (128, 128, 3)
    assert len(coloured) > 1000
    assert coloured.mean(axis=0).argmax() == channel
    assert pixels[:6].mean() > 220


def test_mini_sd_is_small_and_its_card_tells_its_hash() -> None:
    folder = assets.path("models/mini-sd")
    weights = list(folder.rglob("*.safetensors"))
    assert len(weights) == 2
    assert sum(file.stat().st_size for file in weights) <= 25_000_000
    unet = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert hashlib.sha256(unet).hexdigest() in (folder / "README.md").read_text("utf-8")

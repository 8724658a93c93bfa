"""What decides a picture: seeds, settings, masks; each option shows its effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generate.models import SIDE
from PIL import Image
from torch import Tensor

import vaekit
from vaekit import assets
from vaekit.errors import FamilyError, NumericsError, OptionError, PictureError
from vaekit.generate.delivery import decode
from vaekit.generate.painter import Drawn, Painter
from vaekit.generate.pictures import prepare
from vaekit.generate.sampling import Interrupted, Step
from vaekit.generate.settings import Change, Hires, Settings, parse_size

PLAIN = Settings("a red apple", steps=3, seed=5)


def draw(painter: Painter, settings: Settings, **more: object) -> list[Drawn]:
    return list(painter.txt2img(settings, **more))  # type: ignore[arg-type]


def latents(painter: Painter, **changes: object) -> Tensor:
    return torch.cat([one.latents.tensor for one in draw(painter, replace(PLAIN, **changes))])  # type: ignore[arg-type]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((SIDE, SIDE)).save(path)
    return path


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE", "UniPC", "Heun", "LCM"])
def test_a_picture_is_the_same_alone_and_in_a_batch_to_the_last_bit(painter: Painter, sampler: str) -> None:
    together = latents(painter, sampler=sampler, batch_size=3)
    assert torch.equal(together[1:2], latents(painter, sampler=sampler, seed=6))
    assert torch.equal(together, latents(painter, sampler=sampler, count=3))
    assert not torch.equal(together[0], together[1])


def test_each_setting_has_an_effect(painter: Painter) -> None:
    plain = latents(painter)
    assert torch.equal(plain, latents(painter))
    for change in (
        {"prompt": "a blue cat"},
        {"negative": "a blue cat"},
        {"steps": 4},
        {"cfg": 3.0},
        {"cfg": 1.0},
        {"seed": 9},
        {"sampler": "Euler"},
        {"schedule": "Uniform"},
        {"clip_skip": 2},
        {"seamless": True},
    ):
        assert not torch.equal(plain, latents(painter, **change)), change
    assert torch.equal(plain, latents(painter, clip_skip=1))  # the last layer is what is listened to anyway
    assert latents(painter, size=(64, 40)).shape == (1, 4, 5, 8)


def test_without_guidance_the_negative_prompt_is_not_asked_for(painter: Painter) -> None:
    assert torch.equal(latents(painter, cfg=1.0), latents(painter, cfg=1.0, negative="a blue cat"))


def test_a_long_prompt_is_heard_to_its_end(painter: Painter) -> None:
    long = "apple " * 60
    assert not torch.equal(latents(painter, prompt=long), latents(painter, prompt=long + "cat"))
    assert latents(painter, prompt="apple " * 1666).isfinite().all()  # ten thousand characters
    assert latents(painter, prompt="🍎" * 30).isfinite().all()
    assert latents(painter, prompt="").isfinite().all()


def test_control_characters_are_left_out(painter: Painter) -> None:
    assert Settings("a\x00 red\x1b apple\ud800").prompt == "a red apple"
    assert Settings("a\nred\tapple").prompt == "a\nred\tapple"


def test_limited_latents_stay_within_what_is_told(painter: Painter) -> None:
    free, kept = latents(painter, cfg=30.0), latents(painter, cfg=30.0, limit=True)
    assert free.abs().max() > 3.9
    assert torch.equal(kept, free.clamp(-3.9, 3.9))


def test_seamless_edges_meet_in_unet_and_vae(painter: Painter) -> None:
    """Where the network wraps around, the picture can be rolled: its edges are nothing special."""
    drawn = draw(painter, replace(PLAIN, seamless=True))[0]
    vae = drawn.vae
    assert vae is not painter.vae
    rolled = torch.roll(drawn.latents.tensor, (2, 1), (2, 3))
    ours = vae.decode(drawn.latents.tensor, output="tensor")
    assert (vae.decode(rolled, output="tensor") - torch.roll(ours, (16, 8), (2, 3))).abs().max() < 1e-4
    plain = painter.vae.decode(drawn.latents.tensor, output="tensor")
    assert (painter.vae.decode(rolled, output="tensor") - torch.roll(plain, (16, 8), (2, 3))).abs().max() > 1e-2
    assert painter.model.unet.conv_in.padding_mode == "zeros"  # as it was before


def test_the_unet_wraps_around_while_a_seamless_picture_is_drawn(painter: Painter) -> None:
    from vaekit.generate.painter import _edges_meet

    x, states = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    ask = lambda z: painter.model.unet(z, 500, states, return_dict=False)[0]  # noqa: E731
    with torch.no_grad(), _edges_meet(painter.model.unet, True):
        moved = ask(torch.roll(x, (4, 4), (2, 3)))
        assert (moved - torch.roll(ask(x), (4, 4), (2, 3))).abs().max() < 1e-3 * moved.abs().max()
    with torch.no_grad():
        assert (ask(torch.roll(x, (4, 4), (2, 3))) - torch.roll(ask(x), (4, 4), (2, 3))).abs().max() > 1e-3


@pytest.mark.parametrize("upscaler", ["latent", "pixel"])
def test_a_hires_pass_draws_larger(painter: Painter, upscaler: str) -> None:
    plain = latents(painter)
    larger = latents(painter, hires=Hires(2.0, upscaler, 0.5))  # type: ignore[arg-type]
    assert larger.shape == (1, 4, 8, 8)
    small = torch.nn.functional.interpolate(larger, size=plain.shape[2:], mode="area")
    assert torch.corrcoef(torch.stack([small.flatten(), plain.flatten()]))[0, 1] > 0.3  # the same picture still
    nothing = latents(painter, hires=Hires(2.0, upscaler, 0.0))  # type: ignore[arg-type]
    assert not torch.equal(nothing, larger)
    assert not torch.equal(larger, latents(painter, hires=Hires(2.0, upscaler, 0.5, steps=6)))  # type: ignore[arg-type]


def test_another_vae_decodes_the_hires_pass(painter: Painter) -> None:
    drawn = draw(painter, replace(PLAIN, hires=Hires(2.0, "latent", 0.5, vae="mini-mse")))[0]
    assert drawn.vae.fingerprint == vaekit.load("mini-mse").fingerprint
    assert drawn.text.settings["Hires VAE"] == "mini-mse"
    with pytest.raises(FamilyError):
        draw(painter, replace(PLAIN, hires=Hires(2.0, "latent", 0.5, vae="mini-b")))


def test_a_vae_of_another_family_is_refused_before_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.generate.painter.load_model", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(FamilyError, match="mini-b"):
        Painter.open(str(folder), vae="mini-b")


def test_the_vae_is_the_one_that_was_chosen_and_the_reason_is_told(
    folder: Path, single: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    caplog.set_level(logging.INFO, "vaekit")
    logging.getLogger("vaekit").propagate = True
    named = Painter.open(str(folder), vae="mini-mse", device="cpu")
    assert named.vae.fingerprint == vaekit.load("mini-mse").fingerprint
    assert "because it was asked for by name" in caplog.text
    baked = Painter.open(str(single), vae="None", config=str(folder), device="cpu")
    assert baked.resolution.baked
    assert "the checkpoint has its own VAE baked in" in caplog.text


def test_dtypes_are_those_that_were_asked_for(folder: Path) -> None:
    asked = Painter.open(str(folder), device="cpu", dtype="bfloat16", vae_dtype="float16")
    assert asked.model.dtype == next(asked.model.unet.parameters()).dtype == torch.bfloat16
    assert asked.vae.placement.decode_dtype == torch.float16
    plain = Painter.open(str(folder), device="cpu")
    assert plain.model.dtype == plain.vae.placement.decode_dtype == torch.float32
    a, b = (next(iter(one.txt2img(PLAIN))).latents.tensor for one in (asked, plain))
    assert a.dtype == torch.float32
    assert not torch.equal(a, b)


def test_a_lora_is_applied_and_told(folder: Path, painter: Painter, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from vaekit.generate.lora import Lora

    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    width = painter.model.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_v").weight.shape
    tensors = {f"{layer}.lora_down.weight": torch.ones(1, width[1]), f"{layer}.lora_up.weight": torch.ones(width[0], 1)}
    save_file(tensors, tmp_path / "style.safetensors")
    drawn = [
        next(
            iter(
                Painter.open(str(folder), device="cpu", loras=[Lora(tmp_path / "style.safetensors", w)]).txt2img(PLAIN)
            )
        )
        for w in (0.0, 1.0)
    ]
    assert torch.equal(drawn[0].latents.tensor, latents(painter))
    assert not torch.equal(drawn[1].latents.tensor, latents(painter))
    assert drawn[1].text.settings["Lora weights"] == "style: 1"
    assert drawn[1].text.settings["Lora hashes"].startswith("style: ")


# img2img


def changed(painter: Painter, change: Change, settings: Settings = PLAIN) -> Drawn:
    return next(iter(painter.img2img(change, settings)))


def test_strength_is_how_far_the_picture_moves(painter: Painter, picture: Path) -> None:
    start = vaekit.load("mini", dtype="float32").encode(picture).tensor
    settings = replace(PLAIN, steps=10)
    away = [
        (changed(painter, Change(picture, strength), settings).latents.tensor - start).abs().mean().item()
        for strength in (0.0, 0.3, 1.0)
    ]
    assert away[0] == 0.0
    assert 0 < away[1] < away[2]


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "DPM2", "DDIM", "LCM", "UniPC"])
def test_what_is_not_masked_is_not_drawn_anew(painter: Painter, picture: Path, sampler: str, tmp_path: Path) -> None:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 0, SIDE, SIDE))
    mask.save(tmp_path / "mask.png")
    change = Change(picture, 0.9, mask=tmp_path / "mask.png", blur=0)
    drawn = changed(painter, change, replace(PLAIN, steps=4, sampler=sampler))
    start = vaekit.load("mini", dtype="float32").encode(picture).tensor
    assert torch.allclose(drawn.latents.tensor[..., :2], start[..., :2], atol=1e-3)
    assert not torch.allclose(drawn.latents.tensor[..., 2:], start[..., 2:], atol=1e-1)
    original = np.asarray(Image.open(picture))
    assert np.array_equal(np.asarray(decode(drawn))[:, :16], original[:, :16])
    redecoded = changed(painter, replace(change, untouched=False), replace(PLAIN, steps=4, sampler=sampler))
    assert not np.array_equal(np.asarray(decode(redecoded))[:, :16], original[:, :16])


def test_blur_softens_the_edge_of_the_mask(painter: Painter, picture: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 0, SIDE, SIDE))
    mask.save(tmp_path / "mask.png")
    sharp, soft = (
        changed(painter, Change(picture, 0.9, mask=tmp_path / "mask.png", blur=blur)).subject for blur in (0, 4)
    )
    assert sharp is not None and soft is not None and sharp.mask is not None and soft.mask is not None
    assert set(np.unique(np.asarray(sharp.mask))) == {0, 255}
    assert len(np.unique(np.asarray(soft.mask))) > 5


@pytest.mark.parametrize(("resize", "left", "row"), [("stretch", 255, 128), ("crop", 128, 128), ("pad", 255, 0)])
def test_resize_modes(painter: Painter, tmp_path: Path, resize: str, left: int, row: int) -> None:
    wide = Image.new("L", (96, 32), 128)
    wide.paste(255, (0, 0, 32, 32))
    wide.paste(0, (80, 0, 96, 8))  # the top right, down to a quarter of the height
    wide.save(tmp_path / "wide.png")
    change = Change(tmp_path / "wide.png", 0.0, resize)  # type: ignore[arg-type]
    assert changed(painter, change, replace(PLAIN, size=(32, 32))).latents.size == (32, 32)
    ready = np.asarray(prepare(change, (32, 32)).picture)[..., 0].astype(int)
    assert abs(ready[16, 2] - left) < 24
    assert abs(ready[11, 30] - row) < 24


def test_a_picture_of_any_size_comes_back_in_its_size(painter: Painter, tmp_path: Path) -> None:
    Image.new("RGB", (35, 50), "red").save(tmp_path / "odd.png")
    assert decode(changed(painter, Change(tmp_path / "odd.png", 0.5))).size == (35, 50)


def test_a_mask_of_another_size_is_refused(painter: Painter, picture: Path, tmp_path: Path) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "mask.png")
    with pytest.raises(PictureError, match="16×16"):
        changed(painter, Change(picture, mask=tmp_path / "mask.png"))


def test_a_hires_pass_and_img2img_are_refused_together(painter: Painter, picture: Path) -> None:
    with pytest.raises(OptionError, match="hires"):
        changed(painter, Change(picture), replace(PLAIN, hires=Hires()))


# What goes wrong


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": -1},
        {"steps": 10**6},
        {"cfg": float("nan")},
        {"cfg": -1.0},
        {"seed": -1},
        {"size": (0, 64)},
        {"size": (-8, 64)},
        {"size": (100, 64)},
        {"size": (100_000, 64)},
        {"batch_size": 0},
        {"count": 0},
        {"count": 10**7},
        {"clip_skip": 0},
        {"clip_skip": 33},
        {"sampler": "nix"},
        {"prompt": "x" * 20_001},
    ],
    ids=str,
)
def test_what_is_not_possible_is_refused_before_anything_is_loaded(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        replace(PLAIN, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_of_0_to_1_is_refused(strength: float) -> None:
    with pytest.raises(OptionError):
        Change(Path("x.png"), strength)


@pytest.mark.parametrize("wrong", [{"scale": 1.0}, {"scale": 9.0}, {"strength": 2.0}, {"steps": -1}, {"upscaler": "x"}])
def test_hires_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Hires(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "512x", "512x512x512", "1e3", "512x512.5", "0", "-8x8", "65x64"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        parse_size(text)


def test_sizes_are_width_by_height() -> None:
    assert parse_size("512x768") == (512, 768) == parse_size("512×768")
    assert parse_size("64") == (64, 64)


def test_clip_skip_beyond_the_text_encoder_is_refused(painter: Painter) -> None:
    with pytest.raises(OptionError, match="3 layers"):
        draw(painter, replace(PLAIN, clip_skip=4))


def test_nan_in_the_sampler_is_told_with_its_step(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([0, 1])
    real = painter.model.unet.forward

    def forward(*args: object, **kwargs: object) -> tuple[Tensor]:
        answer: Tensor = real(*args, **kwargs)[0]
        return (answer * (float("nan") if next(calls) else 1.0),)

    monkeypatch.setattr(painter.model.unet, "forward", forward)
    with pytest.raises(NumericsError, match="step 2 of 3"):
        draw(painter, PLAIN)


# Watching


def test_who_watches_changes_nothing_even_if_he_tries(painter: Painter) -> None:
    def meddle(step: Step) -> None:
        step.latents.fill_(7.0)
        step.denoised.zero_()

    for sampler in ("Euler a", "DPM2", "UniPC", "DDIM"):
        settings = replace(PLAIN, sampler=sampler)
        watched = draw(painter, settings, watch=[meddle])[0].latents.tensor
        assert torch.equal(watched, draw(painter, settings)[0].latents.tensor)


def test_the_estimate_comes_to_what_is_drawn(painter: Painter) -> None:
    seen: list[Step] = []
    drawn = draw(painter, replace(PLAIN, steps=6), watch=[seen.append])[0].latents.tensor
    assert [step.number for step in seen] == [1, 2, 3, 4, 5, 6]
    assert all(step.total == 6 for step in seen)
    assert sorted((step.sigma for step in seen), reverse=True) == [step.sigma for step in seen]
    assert torch.allclose(seen[-1].denoised, drawn, atol=1e-4)
    assert 0.5 < seen[0].latents.std() < 1.5


def stop_at(number: int) -> object:
    def watch(step: Step) -> None:
        if step.number == number:
            raise KeyboardInterrupt

    return watch


def test_an_interrupt_ends_it_and_nothing_is_given(painter: Painter) -> None:
    with pytest.raises(Interrupted) as caught:
        draw(painter, PLAIN, watch=[stop_at(2)])
    assert caught.value.step == 2


def test_an_interrupt_gives_what_there_is_where_that_is_wished(painter: Painter) -> None:
    def given() -> Iterator[Drawn]:
        yield from painter.txt2img(replace(PLAIN, count=3), watch=[stop_at(2)], save_interrupted=True)  # type: ignore[list-item]

    got = []
    with pytest.raises(KeyboardInterrupt):
        for one in given():
            got.append(one)
    assert len(got) == 1
    assert got[0].interrupted == 2
    assert got[0].text.settings["Interrupted at step"] == "2"
    assert got[0].latents.tensor.isfinite().all()


def test_the_bundled_model_is_the_default_or_its_absence_is_told() -> None:
    from vaekit.generate.painter import default_checkpoint

    if assets.bundled_checkpoints():
        assert default_checkpoint() in assets.bundled_checkpoints()
    else:
        with pytest.raises(OptionError, match="--model"):
            default_checkpoint()

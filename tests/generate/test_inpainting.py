"""Inpainting models, whose UNet is shown the mask and the rest of the picture beside the latents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from generate.models import SIDE, write_file
from PIL import Image

from vaekit import assets
from vaekit.checkpoints.sources import Source, TensorInfo
from vaekit.errors import FileError
from vaekit.generate.architectures import clip_tokenizer
from vaekit.generate.delivery import decode
from vaekit.generate.models import FIRST, _recognised, load_model
from vaekit.generate.painter import Painter
from vaekit.generate.settings import Change, Hires, Settings

PLAIN = Settings("a red apple", steps=3, seed=5, sampler="DDIM")
HEADER = Path(__file__).parent.parent / "data" / "headers" / "v1-5-pruned-emaonly.json"


def taking(folder: Path, out: Path, channels: int) -> Path:
    """A copy of a model whose UNet takes that many channels."""
    shutil.copytree(folder, out)
    config = UNet2DConditionModel.load_config(folder / "unet")
    torch.manual_seed(3)
    UNet2DConditionModel.from_config(config | {"in_channels": channels}).save_pretrained(out / "unet")
    return out


@pytest.fixture(scope="module")
def inpainting(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taking(folder, tmp_path_factory.mktemp("inpainting") / "model", 9)


@pytest.fixture(scope="module")
def inpainter(inpainting: Path) -> Painter:
    return Painter.open(str(inpainting), dtype="float32", device="cpu")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """The left half."""
    grey = Image.new("L", (SIDE, SIDE), 0)
    grey.paste(255, (0, 0, SIDE // 2, SIDE))
    grey.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def shown(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the UNet takes, call by call."""
    seen: list[torch.Tensor] = []
    forward = painter.model.unet.forward

    def watched(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(x)
        return forward(x, *rest, **more)

    monkeypatch.setattr(painter.model.unet, "forward", watched)
    return seen


def test_the_unet_is_shown_the_mask_and_the_picture_without_what_it_hides(
    inpainter: Painter, picture: Path, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = shown(inpainter, monkeypatch)
    (drawn,) = inpainter.img2img(Change(picture, 0.9, mask=mask, blur=0), PLAIN)
    hidden = np.asarray(Image.open(picture), np.float32) / 127.5 - 1
    hidden[:, : SIDE // 2] = 0
    latents = inpainter.vae.encode(torch.from_numpy(hidden).permute(2, 0, 1)[None]).tensor
    for x in seen:
        assert x.shape == (2, 9, 4, 4)  # with and without the prompt
        assert (x[:, 4, :, :2] == 1).all() and (x[:, 4, :, 2:] == 0).all()
        assert torch.allclose(x[:, 5:], latents.expand(2, -1, -1, -1), atol=1e-5)
    whole, before = np.asarray(decode(drawn)), np.asarray(Image.open(picture))
    assert (whole[:, SIDE // 2 :] == before[:, SIDE // 2 :]).all()
    assert (whole[:, : SIDE // 2] != before[:, : SIDE // 2]).mean() > 0.5


def test_without_a_mask_and_in_txt2img_all_is_to_be_drawn(
    inpainter: Painter, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = shown(inpainter, monkeypatch)
    list(inpainter.img2img(Change(picture, 0.5), PLAIN))
    list(inpainter.txt2img(replace(PLAIN, hires=Hires(2.0, "latent", 0.5), batch_size=2)))
    grey = inpainter.vae.encode(torch.zeros(1, 3, SIDE, SIDE)).tensor
    assert {tuple(x.shape[2:]) for x in seen} == {(4, 4), (8, 8)}
    for x in seen:
        assert (x[:, 4] == 1).all()
        if x.shape[2] == 4:
            assert torch.allclose(x[:, 5:], grey.expand(len(x), -1, -1, -1), atol=1e-5)


def test_it_draws_what_diffusers_draws(inpainter: Painter, inpainting: Path) -> None:
    vae = AutoencoderKL.from_pretrained(assets.model_folder("mini"), torch_dtype=torch.float32)
    scheduler = DDIMScheduler.from_pretrained(inpainting / "scheduler")
    pipe = StableDiffusionInpaintPipeline(
        vae,
        inpainter.model.texts[0],
        inpainter.model.architecture.tokenizers[0],
        inpainter.model.unet,
        DDIMScheduler.from_config(scheduler.config, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    (ours,) = inpainter.txt2img(PLAIN)
    expected = pipe(
        PLAIN.prompt,
        image=Image.new("RGB", (SIDE, SIDE)),
        mask_image=Image.new("L", (SIDE, SIDE), 255),
        masked_image_latents=inpainter.vae.encode(torch.zeros(1, 3, SIDE, SIDE)).tensor,
        latents=torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(5)),
        height=SIDE,
        width=SIDE,
        strength=1.0,
        num_inference_steps=PLAIN.steps,
        guidance_scale=PLAIN.cfg,
        output_type="latent",
    ).images
    assert (ours.latents.tensor - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_single_file_tells_how_many_channels_its_unet_takes(inpainting: Path, tmp_path: Path) -> None:
    single = write_file(inpainting, tmp_path / "inpainting.safetensors")
    assert load_model(single, config=inpainting, device="cpu").inpaints
    told = json.loads(HEADER.read_text())["tensors"]
    tensors = {name: TensorInfo(dtype, tuple(shape)) for name, (dtype, shape) in told.items()}
    plain = _recognised(single, cast(Source, SimpleNamespace(tensors=tensors)), ["one"])
    tensors[FIRST] = tensors[FIRST]._replace(shape=(320, 9, 3, 3))
    found = _recognised(single, cast(Source, SimpleNamespace(tensors=tensors)), ["one"])
    assert plain.unet.get("in_channels", 4) == 4 and found.unet["in_channels"] == 9
    assert found.title == "Stable Diffusion 1.x for inpainting"


def test_other_numbers_of_channels_and_the_refiner_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="takes 8 channels; vaekit draws with those that take 4, or 9"):
        load_model(taking(folder, tmp_path / "eight", 8), device="cpu")
    refiner = {"model.diffusion_model.x.attn2.to_k.weight": TensorInfo("F16", (640, 1280))}
    with pytest.raises(FileError, match="the refiner of SDXL"):
        _recognised(tmp_path, cast(Source, SimpleNamespace(tensors=refiner)), ["one"])
    xl = tmp_path / "refiner"
    shutil.copytree(folder, xl)
    shutil.move(xl / "text_encoder", xl / "text_encoder_2")
    clip_tokenizer("!").save_pretrained(xl / "tokenizer_2")
    for name, change in (
        ("model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline"}),
        ("unet/config.json", {"cross_attention_dim": 1280}),
    ):
        (xl / name).write_text(json.dumps(json.loads((xl / name).read_text()) | change))
    with pytest.raises(FileError, match="the refiner of SDXL"):
        load_model(xl, device="cpu")

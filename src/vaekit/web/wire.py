"""Requests of A1111's clients as Settings and Change, and nothing in them passed over in silence."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vaekit import images
from vaekit.errors import OptionError, PictureError
from vaekit.generate.infotext import KEY
from vaekit.generate.samplers import AUTOMATIC, schedules
from vaekit.generate.settings import Change, Fill, Hires, Settings
from vaekit.web.options import unknown

RESIZE = {0: "stretch", 1: "crop", 2: "pad"}
NOTHING: tuple[Any, ...] = (None, 0, 0.0, "", False)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "subseed_strength",
            "seed_resize_from_h",
            "seed_resize_from_w",
            "s_churn",
            "s_tmax",
            "s_tmin",
            "s_min_uncond",
            "restore_faces",
            "firstphase_width",
            "firstphase_height",
            "hr_resize_x",
            "hr_resize_y",
            "script_name",
            "refiner_checkpoint",
            "refiner_switch_at",
            "initial_noise_multiplier",
            "include_init_images",
            "hr_checkpoint_name",
            "hr_sampler_name",
            "hr_scheduler",
            "hr_prompt",
            "hr_negative_prompt",
            "disable_extra_networks",
            "comments",
            "latent_mask",
            "firstpass_image",
            "force_task_id",
            "infotext",
        ),
        NOTHING,
    ),
    "s_noise": (None, 1, 1.0),
    "eta": (None, 0, 1),
    "initial_noise_multiplier": (None, 1),
    "seed_resize_from_h": (None, 0, -1),
    "seed_resize_from_w": (None, 0, -1),
    "styles": (None, []),
    "script_args": (None, []),
    "alwayson_scripts": (None, {}),
}
"""What A1111's clients send and vaekit has not, with the values that ask for nothing."""
IDLE = {
    "subseed": "there are no variations of seeds",
    "do_not_save_samples": "save_images decides what is kept",
    "do_not_save_grid": "there are no grids",
    "image_cfg_scale": "it is of models that are told how to change a picture",
}
"""What they send that changes nothing as long as the rest is neutral, and why; `info` tells it."""
FILLS: dict[int, Fill] = {0: "surroundings", 1: "original", 2: "noise", 3: "nothing"}
OF_A_MASK = ("mask_blur", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding", "inpainting_mask_invert")


class Limits(BaseModel):
    """How much one request may ask for. body: bytes; side: pixels, of what is drawn; area: pixels, of what is read."""

    model_config = ConfigDict(frozen=True)

    side: int = 2048
    area: int = 1 << 26
    steps: int = 150
    pictures: int = 16
    body: int = 64 << 20


class Txt2Img(BaseModel):
    """As A1111's; what is left out has the usual value, width and height the model's own."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"prompt": "a red apple", "seed": 1, "steps": 20, "override_settings": {"sd_vae": "mini-mse"}}]
        },
    )

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 20
    cfg_scale: float = 7.0
    width: int | None = None
    height: int | None = None
    tiling: bool | None = False
    enable_hr: bool = False
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    denoising_strength: float | None = None
    override_settings: dict[str, Any] = Field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    send_images: bool = True
    save_images: bool = False


class Img2Img(Txt2Img):
    """init_images: one picture, base64, or a URL where the server fetches them. mask: the same, white is drawn anew.

    inpainting_fill: 0 the colours around, 1 the picture, 2 noise, 3 nothing. inpaint_full_res: draw the part around
    the mask alone, as large as width and height say.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"prompt": "a red apple", "init_images": ["…"], "denoising_strength": 0.6}]},
    )

    init_images: list[str] = Field(default_factory=list)
    mask: str | None = None
    mask_blur: float = 4.0
    resize_mode: int = 0
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: bool = False


def check_rest(request: Txt2Img) -> None:
    """Raise OptionError for what the request asks for and vaekit has not, and for what nobody has."""
    known = [*type(request).model_fields, *NEUTRAL, *IDLE]
    for name, value in (request.model_extra or {}).items():
        if name in IDLE:
            continue
        if name not in NEUTRAL:
            raise OptionError(unknown(name, known))
        if value not in NEUTRAL[name]:
            raise OptionError(f"{name}: vaekit has nothing for it; leave it out")


def not_used(request: Txt2Img) -> dict[str, str]:
    """What was sent, asks for something, and changed nothing, each with the reason."""
    sent = request.model_dump(exclude_unset=True)
    told = {name: why for name, why in IDLE.items() if sent.get(name) not in (*NOTHING, -1)}
    if isinstance(request, Img2Img) and not request.mask:
        told |= {name: "there is no mask" for name in OF_A_MASK if name in sent}
    if isinstance(request, Txt2Img) and not isinstance(request, Img2Img) and not request.enable_hr:
        told |= {name: "enable_hr is off" for name in ("hr_scale", "hr_upscaler", "denoising_strength") if name in sent}
    return told


def settings(request: Txt2Img, limits: Limits, own_side: int) -> Settings:
    """What is to be drawn. own_side: of the model, for a side that is left out. Raises OptionError."""
    check_rest(request)
    size = None
    if request.width is not None or request.height is not None:
        size = (request.width or own_side, request.height or own_side)
        if max(size) > limits.side:
            raise OptionError(f"{size[0]}×{size[1]} is more than this server draws: {limits.side} pixels a side")
    if request.steps > limits.steps:
        raise OptionError(f"{request.steps} steps are more than this server takes: {limits.steps}")
    if request.batch_size * request.n_iter > limits.pictures:
        raise OptionError(f"{request.batch_size * request.n_iter} pictures are more than {limits.pictures} at a time")
    if request.seed < -1:
        raise OptionError(f"seed {request.seed} is not possible; -1 draws one")
    if not request.send_images and not request.save_images:
        raise OptionError("send_images and save_images are both off: the pictures would go nowhere")
    hires = None
    if request.enable_hr:
        hires = Hires(
            request.hr_scale,
            _upscaler(request.hr_upscaler),  # type: ignore[arg-type]
            0.7 if request.denoising_strength is None else request.denoising_strength,
            request.hr_second_pass_steps,
        )
        if size is not None and max(size) * request.hr_scale > limits.side:
            raise OptionError(f"the second pass is larger than {limits.side} pixels a side")
    return Settings(
        prompt=request.prompt,
        negative=request.negative_prompt,
        steps=request.steps,
        cfg=request.cfg_scale,
        seed=None if request.seed == -1 else request.seed,
        size=size,
        sampler=request.sampler_name or request.sampler_index or "DPM++ 2M",
        schedule=_schedule(request.scheduler),
        batch_size=request.batch_size,
        count=request.n_iter,
        hires=hires,
        seamless=bool(request.tiling),
    )


def _schedule(name: str | None) -> str:
    """A1111's clients write schedules as they please: karras, Karras."""
    if name is None or name.lower() == AUTOMATIC.lower():
        return AUTOMATIC
    return next((one for one in schedules() if one.lower().replace(" ", "_") == name.lower()), name)


def _upscaler(name: str | None) -> str:
    if name is None or name.lower().startswith("latent"):
        return "latent"
    if name == "Lanczos":
        return "pixel"
    raise OptionError(f"no upscaler is called {name!r}; there are Latent and Lanczos")


def change(request: Img2Img, folder: Path, limits: Limits) -> Change:
    """What img2img does; its pictures are written into the folder. Raises OptionError, PictureError."""
    if len(request.init_images) != 1:
        raise OptionError(f"init_images: one picture is drawn over, not {len(request.init_images)}")
    if request.resize_mode not in RESIZE:
        raise OptionError(f"resize_mode {request.resize_mode} is not possible; 0 stretch, 1 crop, 2 pad")
    if request.enable_hr:
        raise OptionError("enable_hr follows txt2img; a larger width and height do the same here")
    if request.inpainting_fill not in FILLS:
        raise OptionError(f"inpainting_fill {request.inpainting_fill} is not possible; 0 to 3")
    masked = None
    if request.mask:
        masked = written(request.mask, folder / "mask", limits)
    first = written(request.init_images[0], folder / "picture", limits)
    plain = Change(
        first,
        0.75 if request.denoising_strength is None else request.denoising_strength,
        RESIZE[request.resize_mode],  # type: ignore[arg-type]
        masked,
        blur=request.mask_blur,
    )
    if masked is None:
        return plain
    return replace(
        plain,
        invert=request.inpainting_mask_invert,
        fill=FILLS[request.inpainting_fill],
        area="masked" if request.inpaint_full_res else "whole",
        margin=request.inpaint_full_res_padding,
    )


def written(text: str, path: Path, limits: Limits) -> Path:
    """A picture as a file, once its header tells that it is one, and not too large. Raises PictureError."""
    path.write_bytes(picture_bytes(text, path.name))
    width, height = images.size_of(path)
    if width * height > limits.area:
        raise PictureError(f"{path.name}: {width}×{height} is more than this server reads: {limits.area:,} pixels")
    return path


def picture_bytes(text: str, called: str) -> bytes:
    """Out of base64, with or without `data:image/…;base64,`. Raises PictureError."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{called}: not base64") from error
    if not found:
        raise PictureError(f"{called}: empty")
    return found


def encoded(picture: Image.Image, text: str | None = None) -> str:
    """Base64 of a PNG, with its infotext."""
    from PIL.PngImagePlugin import PngInfo as Chunks

    chunks = Chunks()
    if text:
        chunks.add_itxt(KEY, text)
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=chunks)
    return base64.b64encode(out.getvalue()).decode()

"""From noise to latents: the loop in which the UNet is asked, and what can be watched of it.

The arithmetic of a step is that of diffusers' schedulers. Nothing that watches
can change anything: it gets copies.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.errors import NumericsError, OptionError
from vaekit.generate.models import Model
from vaekit.generate.prompts import Told
from vaekit.generate.samplers import sigma_at


@dataclass(frozen=True)
class Step:
    """What can be seen of one step.

    number: from 1; total: of this pass. latents: [B, C, h, w], as the UNet sees
    them, standard deviation about 1. denoised: the UNet's estimate of the finished
    latents, in model space. sigma: noise beside a picture of weight 1. part: "" or
    "hires" for the second pass.
    """

    number: int
    total: int
    latents: Tensor
    denoised: Tensor
    sigma: float
    part: str = ""


Watch = Callable[[Step], None]


class Interrupted(KeyboardInterrupt):
    """Somebody stopped the sampler. latents: the estimate of that moment, or None before the first step."""

    def __init__(self, latents: Tensor | None, step: int):
        super().__init__("interrupted")
        self.latents = latents
        self.step = step


@dataclass(frozen=True)
class Kept:
    """What inpainting leaves as it is. latents: of the picture; mask: [B or 1, 1, h, w], 1 where it is drawn anew."""

    latents: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Guidance:
    """How the UNet is asked.

    size: (width, height) in pixels, which SDXL is told. beside: what an inpainting
    UNet is shown beside the latents, [1, 1 + C, h, w]: the mask, 1 where it is to
    draw, and the latents of the picture with grey under the mask.
    """

    prompt: Told
    negative: Told
    cfg: float
    size: tuple[int, int]
    beside: Tensor | None = None


def draws(seeds: Sequence[int]) -> list[torch.Generator]:
    """One source of noise per picture, so that each comes out of a batch the same as alone."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int], model: Model) -> Tensor:
    """[B, C, h, w], drawn on the CPU whatever the device, so that a seed means the same everywhere."""
    drawn = [torch.randn((1, *shape), generator=generator, dtype=model.dtype) for generator in generators]
    return torch.cat(drawn).to(model.device)


@torch.no_grad()
def sample(
    model: Model,
    scheduler: Any,
    guidance: Guidance,
    latents: Tensor,
    generators: list[torch.Generator],
    *,
    begin: int = 0,
    kept: Kept | None = None,
    watch: Sequence[Watch] = (),
    part: str = "",
) -> Tensor:
    """Take the scheduler's steps from `begin` on; gives latents in model space, [B, C, h, w].

    latents: noise as the scheduler starts with it, or a picture's with noise
    added. Raises NumericsError where NaN or infinity comes out, and Interrupted.
    """
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    total = len(scheduler.timesteps) - begin
    x, last, number = latents, None, 0
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    try:
        for index in range(begin, len(scheduler.timesteps)):
            time, sigma, number = scheduler.timesteps[index], sigma_at(scheduler, index), index - begin + 1
            seen = scheduler.scale_model_input(x, time)
            out = ask(model, guidance, seen, time)
            estimate = _denoised(seen, out, sigma, scheduler)
            if kept is not None:
                estimate = kept.mask * estimate + (1 - kept.mask) * kept.latents
                out = _output(seen, estimate, sigma, scheduler)
            last = estimate
            x = scheduler.step(out, time, x, return_dict=False, **extra)[0]
            _check(x, number, total, model.dtype)
            for look in watch:
                look(Step(number, total, seen.float().clone(), estimate.float().clone(), sigma, part))
    except KeyboardInterrupt as stop:
        raise Interrupted(None if last is None else last.float().clone(), number) from stop
    return x if kept is None else kept.mask * x + (1 - kept.mask) * kept.latents


def _check(x: Tensor, number: int, total: int, dtype: torch.dtype) -> None:
    if not bool(torch.isfinite(x).all()):
        narrow = dtype != torch.float32
        hint = "; --dtype float32 has more room" if narrow else ": the checkpoint, a LoRA or the settings are broken"
        raise NumericsError(f"NaN or infinity in the latents at step {number} of {total}{hint}")


def ask(model: Model, guidance: Guidance, x: Tensor, time: Tensor) -> Tensor:
    """The UNet's answer under classifier-free guidance (Ho and Salimans 2022), [B, C, h, w].

    On a CPU each picture is asked for by itself: it is no slower, and the answer
    does not depend on what else is in the batch, down to the last bit.
    """
    if x.device.type == "cpu" and len(x) > 1:
        return torch.cat([ask(model, guidance, one, time) for one in x.split(1)])  # type: ignore[no-untyped-call]
    guided = guidance.cfg > 1
    told = [guidance.negative, guidance.prompt] if guided else [guidance.prompt]
    states = torch.cat([one.states.expand(len(x), -1, -1) for one in told])
    if guidance.beside is not None:
        x = torch.cat([x, guidance.beside.expand(len(x), -1, -1, -1).to(x)], dim=1)
    answer = model.unet(
        torch.cat([x] * len(told)).to(model.dtype),
        time,
        encoder_hidden_states=states,
        added_cond_kwargs=_added(model, guidance, told, len(x)),
        return_dict=False,
    )[0]
    if not guided:
        return Tensor(answer)
    without, with_prompt = answer.chunk(2)
    return Tensor(without + guidance.cfg * (with_prompt - without))


def _added(model: Model, guidance: Guidance, told: list[Told], count: int) -> dict[str, Tensor] | None:
    """SDXL is told the pooled prompt, and the size and place of the picture (Podell et al. 2023, section 2.2)."""
    if not model.is_xl:
        return None
    width, height = guidance.size
    sizes = torch.tensor([[height, width, 0, 0, height, width]], device=model.device, dtype=model.dtype)
    pooled = torch.cat([one.pooled.expand(count, -1) for one in told if one.pooled is not None])
    return {"text_embeds": pooled, "time_ids": sizes.expand(count * len(told), -1)}


def _weights(sigma: float) -> tuple[float, float]:
    """Of picture and noise in what the UNet sees, whose squares add up to 1."""
    alpha = float((1 + sigma**2) ** -0.5)
    return alpha, sigma * alpha


def _denoised(seen: Tensor, out: Tensor, sigma: float, scheduler: Any) -> Tensor:
    """The finished latents as the UNet's answer has them."""
    alpha, beta = _weights(sigma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (seen - beta * out) / alpha
    if kind == "v_prediction":
        return alpha * seen - beta * out
    raise OptionError(f"a model that predicts {kind!r}; vaekit draws with those that predict epsilon or v")


def _output(seen: Tensor, estimate: Tensor, sigma: float, scheduler: Any) -> Tensor:
    """The answer that has these finished latents: the inverse of `_denoised`."""
    alpha, beta = _weights(sigma)
    if scheduler.config.prediction_type == "epsilon":
        return (seen - alpha * estimate) / beta
    return (alpha * seen - estimate) / beta

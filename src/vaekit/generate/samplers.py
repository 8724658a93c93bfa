"""Samplers and their schedules by the names of A1111, as schedulers of diffusers; samplers.toml says which."""

from __future__ import annotations

import difflib
import inspect
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.errors import OptionError

AUTOMATIC = "Automatic"
OF_THE_MODEL = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
"""What a scheduler takes from how the model was trained."""

USUAL = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


@dataclass(frozen=True)
class Sampler:
    """One sampler; the fields are those of samplers.toml."""

    name: str
    kind: str
    schedules: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    automatic: str = "Uniform"
    calls: int = 1


@dataclass(frozen=True)
class Schedule:
    """How the steps lie between noise and picture. also: other names for it."""

    name: str
    options: Mapping[str, Any]
    also: tuple[str, ...] = ()


@cache
def samplers() -> dict[str, Sampler]:
    """Every sampler by its name."""
    return {
        name: Sampler(name, about.pop("class"), tuple(about.pop("schedules")), **about)
        for name, about in _table()["sampler"].items()
    }


@cache
def schedules() -> dict[str, Schedule]:
    """Every schedule by its name, without Automatic."""
    return {
        name: Schedule(name, about["options"], tuple(about.get("also", ())))
        for name, about in _table()["schedule"].items()
    }


def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("vaekit.generate").joinpath("samplers.toml").read_text("utf-8"))


def choose(sampler: str, schedule: str = AUTOMATIC) -> tuple[Sampler, Schedule]:
    """The sampler and schedule of these names, in any case; "DPM++ 2M Karras" names both.

    Raises OptionError with the nearest names, and for a schedule that the sampler cannot follow.
    """
    found, rest = _split(sampler)
    if rest and schedule.lower() not in (AUTOMATIC.lower(), rest.lower()):
        raise OptionError(f"{sampler!r} names a schedule, and so does --schedule {schedule}; name one")
    wanted = _schedule(rest or schedule, found)
    if wanted.name not in found.schedules:
        raise OptionError(f"{found.name} cannot follow {wanted.name}; it can {', '.join(found.schedules)}")
    return found, wanted


def _split(name: str) -> tuple[Sampler, str]:
    """A sampler, and the schedule that stands behind it in A1111's older names."""
    known = {key.lower(): value for key, value in samplers().items()}
    text = " ".join(name.split())
    if text.lower() in known:
        return known[text.lower()], ""
    for schedule in (name for one in schedules().values() for name in (one.name, *one.also)):
        start = text[: -len(schedule)].strip().lower()
        if text.lower().endswith(" " + schedule.lower()) and start in known:
            return known[start], schedule
    absent = {key.lower(): (key, nearest) for key, nearest in _table()["absent"].items()}
    for ending in ("", *(" " + called.lower() for one in schedules().values() for called in (one.name, *one.also))):
        if found := absent.get(text.lower().removesuffix(ending)):
            raise OptionError(f"diffusers has no sampler {found[0]}, so vaekit has none; the nearest is {found[1]}")
    raise OptionError(f"no sampler is called {name!r}; {_hint(text, samplers())}")


def _schedule(name: str, sampler: Sampler) -> Schedule:
    if name.lower() == AUTOMATIC.lower():
        return schedules()[sampler.automatic]
    for one in schedules().values():
        if name.lower() in (called.lower() for called in (one.name, *one.also)):
            return one
    raise OptionError(f"no schedule is called {name!r}; {_hint(name, [AUTOMATIC, *schedules()])}")


def _hint(name: str, known: Iterable[str]) -> str:
    listed = list(known)
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in listed], n=3, cutoff=0.6)
    named = [one for one in listed if one.lower() in near]
    return f"did you mean {' or '.join(named)}?" if named else f"there are {', '.join(listed)}"


def make(sampler: Sampler, schedule: Schedule, trained: Mapping[str, Any], steps: int, device: torch.device) -> Any:
    """The scheduler of diffusers with its steps set. trained: the model's noise, in its words."""
    import diffusers

    kind = getattr(diffusers, sampler.kind)
    accepted = inspect.signature(kind.__init__).parameters
    told = {key: trained[key] for key in OF_THE_MODEL if key in trained}
    wanted = USUAL | told | dict(sampler.options) | dict(schedule.options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*algorithm_types?.*dpmsolver", category=FutureWarning)
        scheduler = kind(**{key: value for key, value in wanted.items() if key in accepted})
    scheduler.set_timesteps(steps, device=device)
    if schedule.name in ("Karras", "Exponential") and f"use_{schedule.name.lower()}_sigmas" not in accepted:
        _follow(scheduler, schedule.name, steps, device)
    return scheduler


def _follow(scheduler: Any, schedule: str, steps: int, device: torch.device) -> None:
    """Give a scheduler of the Euler kind, which diffusers left without them, the sigmas of a schedule.

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", equation 5, rho 7.
    """
    high, low = float(scheduler.sigmas[0]), float(scheduler.sigmas[-2])
    if schedule == "Karras":
        ends = high ** (1 / 7), low ** (1 / 7)
        sigmas = np.linspace(*ends, steps) ** 7
    else:
        sigmas = np.exp(np.linspace(np.log(high), np.log(low), steps))
    times = times_of(sigmas, scheduler.alphas_cumprod)
    scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
    scheduler.timesteps = torch.from_numpy(times.astype(np.float32)).to(device)


def all_sigmas(kept: Tensor) -> np.ndarray:
    """Noise beside picture at each time the model was trained at. kept: alphas_cumprod."""
    values = kept.double().cpu().numpy()
    return np.asarray(((1 - values) / values) ** 0.5)


def times_of(sigmas: np.ndarray, kept: Tensor) -> np.ndarray:
    """The (fractional) times at which there is so much noise, by interpolation of its logarithm."""
    known = np.log(np.maximum(all_sigmas(kept), 1e-10))
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), known, np.arange(len(known)))


def sigma_at(scheduler: Any, index: int) -> float:
    """How much noise beside a picture of weight 1 the latents have that enter the step of that index."""
    time = float(scheduler.timesteps[index])
    if not scheduler.timesteps.is_floating_point() and hasattr(scheduler, "sigmas") and scheduler.order == 1:
        return float(scheduler.sigmas[index])  # these round their times
    known = all_sigmas(scheduler.alphas_cumprod)
    return float(np.exp(np.interp(time, np.arange(len(known)), np.log(np.maximum(known, 1e-10)))))

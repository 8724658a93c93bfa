"""Samplers by the names of A1111; each of them ends at the picture when the network is perfect."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from vaekit.errors import OptionError
from vaekit.generate import samplers as samplers_room
from vaekit.generate.architectures import NOISE
from vaekit.generate.samplers import choose, make, samplers, schedules, sigma_at
from vaekit.generate.sampling import _denoised, _output

CPU = torch.device("cpu")
PAIRS = [(name, schedule) for name, sampler in samplers().items() for schedule in sampler.schedules]
LAST_NOISE = 0.0292
"""What Stable Diffusion's first time leaves; DDIM and those like it end there."""


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "schedule"), PAIRS, ids=lambda value: value)
def test_with_a_perfect_network_every_sampler_ends_at_the_picture(name: str, schedule: str, prediction: str) -> None:
    scheduler = make(*choose(name, schedule), NOISE | {"prediction_type": prediction}, 9, CPU)
    generators = [torch.Generator().manual_seed(1)]
    picture = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2)).clamp(-2, 2)
    x = torch.randn(picture.shape, generator=generators[0]) * scheduler.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    assert len(scheduler.timesteps) >= 9
    for index, time in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, time)
        out = _output(seen, picture, sigma_at(scheduler, index), scheduler)
        assert torch.allclose(_denoised(seen, out, sigma_at(scheduler, index), scheduler), picture, atol=1e-3)
        x = scheduler.step(out, time, x, **extra).prev_sample
    assert (x - picture).abs().max() < 4 * LAST_NOISE


@pytest.mark.parametrize(
    ("asked", "schedule", "found"),
    [
        ("Euler a", "Automatic", ("Euler a", "Uniform")),
        ("euler A", "karras", ("Euler a", "Karras")),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE Exponential", "Automatic", ("DPM++ 2M SDE", "Exponential")),
        ("DPM++ 2M", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE", "Automatic", ("DPM++ 2M SDE", "Exponential")),
        ("Euler", "Normal", ("Euler", "Uniform")),
        ("DDIM", "Automatic", ("DDIM", "DDIM")),
        ("LCM", "Automatic", ("LCM", "Uniform")),
        ("UniPC", "SGM Uniform", ("UniPC", "SGM Uniform")),
        ("DPM fast", "Automatic", ("DPM fast", "Exponential")),
        ("DPM++ 2M SDE", "Polyexponential", ("DPM++ 2M SDE", "Exponential")),
    ],
)
def test_names_are_those_of_a1111(asked: str, schedule: str, found: tuple[str, str]) -> None:
    sampler, followed = choose(asked, schedule)
    assert (sampler.name, followed.name) == found


@pytest.mark.parametrize(
    ("asked", "schedule", "told"),
    [
        ("Euler b", "Automatic", "did you mean"),
        ("nothing", "Automatic", "there are Euler"),
        ("Euler", "nothing", "no schedule"),
        ("DDIM", "Karras", "cannot follow"),
        ("DPM++ 2M Karras", "Beta", "name one"),
        ("DPM++ 2S a Karras", "Automatic", r"no sampler DPM\+\+ 2S a.*the nearest is DPM\+\+ SDE"),
        ("restart", "Automatic", "the nearest is Heun"),
        ("DPM adaptive", "Karras", "the nearest is DPM fast"),
        ("DPM fast", "Karras", "cannot follow"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(asked: str, schedule: str, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        choose(asked, schedule)


def test_what_stands_in_for_an_absent_sampler_is_there() -> None:
    table = samplers_room._table()["absent"]
    assert set(table.values()) <= set(samplers()) and not set(table) & set(samplers())


def test_every_automatic_schedule_is_one_that_the_sampler_follows() -> None:
    for sampler in samplers().values():
        assert sampler.automatic in sampler.schedules
        assert set(sampler.schedules) <= set(schedules())


@pytest.mark.parametrize("schedule", ["Karras", "Exponential"])
def test_euler_a_follows_the_sigmas_that_diffusers_gives_euler(schedule: str) -> None:
    ours = make(*choose("Euler a", schedule), NOISE, 12, CPU)
    theirs = make(*choose("Euler", schedule), NOISE, 12, CPU)
    assert np.allclose(ours.sigmas, theirs.sigmas, rtol=1e-4)
    assert np.allclose(ours.timesteps, theirs.timesteps, rtol=1e-3, atol=0.05)


def test_the_models_noise_reaches_the_scheduler() -> None:
    other = make(*choose("Euler"), NOISE | {"beta_end": 0.02}, 5, CPU)
    assert other.sigmas[0] > make(*choose("Euler"), NOISE, 5, CPU).sigmas[0]

"""Training a KL autoencoder from nothing: the loop, in plain sight.

A run lives in its folder: `state.pt` is written every few minutes, and the same
call goes on from there to the same losses as without the stop; `log.csv` grows
beside it. Settings and their meaning: recipes/mini.toml.
"""

from __future__ import annotations

import ast
import csv
import math
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from vaekit.errors import FileError, NumericsError, OptionError
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL, ResnetBlock
from vaekit.train.data import Crops
from vaekit.train.muon import Muon


class Phase(BaseModel):
    """Part of a run. crops: (side in pixels, how many in a batch), one of them drawn for each step. rate: the peak
    as a share of the full learning rate; it falls linearly over the last `decay` part of the phase."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    crops: tuple[tuple[PositiveInt, PositiveInt], ...]
    zoom: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    rate: PositiveFloat = 1.0
    decay: PositiveFloat = 1 / 3


class Settings(BaseModel):
    """A recipe; its numbers are explained in recipes/mini.toml. save_seconds: how often the state is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: KLConfig
    phases: tuple[Phase, ...]
    lr_muon: PositiveFloat = 1e-2
    lr_adamw: PositiveFloat = 1e-3
    warmup: PositiveInt = 100
    ema: float = 0.995
    l1: float = 0.1
    kl: float = 1e-3
    colour: float = 1.0
    seed: int = 0
    save_seconds: float = 120.0

    @staticmethod
    def read(path: Path) -> Settings:
        """A recipe's file. Raises FileError, OptionError."""
        try:
            return Settings(**tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise OptionError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        except ValueError as error:
            raise FileError(f"{path}: not valid TOML: {error}") from error


def build(config: KLConfig) -> KL:
    """A network with each residual block starting as the identity: its second convolution is zero."""
    model = KL(config)
    for module in model.modules():
        if isinstance(module, ResnetBlock):
            for parameter in module.conv2.parameters():
                nn.init.zeros_(parameter)
    return model


def reconstruction_loss(out: Tensor, x: Tensor, l1: float, colour: float) -> Tensor:
    """MSE + l1 * L1, and the MSE of the two colour axes once more, `colour` times.

    A grey error moves all three channels alike; what is left after taking the
    mean over the channels away is an error of colour, to which the plain MSE is
    too kind: networks trained on it learn one colour axis late or never.
    """
    error = out - x
    hue = error - error.mean(dim=1, keepdim=True)
    return error.square().mean() + l1 * error.abs().mean() + colour * hue.square().mean()


class Run:
    """Everything a training run consists of, so that it can be saved whole and taken up again."""

    def __init__(self, settings: Settings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.model = build(settings.network)
        self.average = build(settings.network)
        self.average.load_state_dict(self.model.state_dict())
        kernels = [p for p in self.model.parameters() if p.ndim == 4 and p.shape[-1] == 3]
        others = [p for p in self.model.parameters() if not (p.ndim == 4 and p.shape[-1] == 3)]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(kernels, lr=settings.lr_muon),
            torch.optim.AdamW(others, lr=settings.lr_adamw, betas=(0.9, 0.99), weight_decay=0.0),
        )
        self.base_lr = (settings.lr_muon, settings.lr_adamw)
        self.rng = np.random.default_rng(settings.seed)
        self.noise = torch.Generator().manual_seed(settings.seed)
        self.step = 0

    def phase(self) -> tuple[Phase, int] | None:
        """The phase that the next step belongs to and the steps left in it; None when all are done."""
        end = 0
        for phase in self.settings.phases:
            end += phase.steps
            if self.step < end:
                return phase, end - self.step
        return None

    def learning_rate(self) -> float:
        """Share of the full rate: a short linear rise, then the phase's plateau and fall."""
        current = self.phase()
        if current is None:
            return 0.0
        phase, left = current
        return min(phase.rate * min(1.0, left / (phase.decay * phase.steps)), (self.step + 1) / self.settings.warmup)

    def train_step(self, x: Tensor) -> dict[str, float]:
        """One update on the crops x [B, 3, crop, crop]; the losses as numbers."""
        rate = self.learning_rate()
        for optimizer, base in zip(self.optimizers, self.base_lr, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            moments = self.model.moments(x)
            out = self.model.decode(moments.sample(self.noise))
        reconstruction = reconstruction_loss(out.float(), x, self.settings.l1, self.settings.colour)
        kl = moments.kl().float().mean() / x[0].numel()
        loss = reconstruction + self.settings.kl * kl
        if not torch.isfinite(loss):
            raise NumericsError(f"the loss is {loss.item()} at step {self.step}; the last saved state is kept")
        torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        mse = (out.detach().float() - x).square().mean().item()
        return {"loss": loss.item(), "kl": kl.item(), "psnr": 10 * math.log10(4.0 / mse), "rate": rate}

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def state(self) -> dict[str, object]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "noise": self.noise.get_state(),
            "rng": repr(self.rng.bit_generator.state),
        }

    def load_state(self, state: dict[str, object]) -> None:
        self.step = int(state["step"])  # type: ignore[call-overload]
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        self.average.load_state_dict(state["average"])  # type: ignore[arg-type]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):  # type: ignore[call-overload]
            optimizer.load_state_dict(saved)
        self.noise.set_state(state["noise"])  # type: ignore[arg-type]
        self.rng.bit_generator.state = ast.literal_eval(str(state["rng"]))


def save(run: Run, folder: Path) -> None:
    """Write the state so that a stop in the middle leaves the one before."""
    temporary = folder / "state.pt.part"
    torch.save(run.state(), temporary)
    temporary.replace(folder / "state.pt")


def train(settings: Settings, data: Path, folder: Path) -> Run:
    """Run to the last step, from the saved state if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    crops = Crops(data)
    run = Run(settings)
    if (folder / "state.pt").exists():
        run.load_state(torch.load(folder / "state.pt", weights_only=True))
    saved = time.monotonic()
    with (folder / "log.csv").open("a", newline="") as file:
        log = csv.DictWriter(file, ["step", "seconds", "loss", "kl", "psnr", "rate"])
        while current := run.phase():
            started = time.monotonic()
            losses = run.train_step(draw_batch(crops, current[0], run.rng))
            if run.step % 20 == 0:
                log.writerow({"step": run.step, "seconds": round(time.monotonic() - started, 3), **losses})
                file.flush()
            if time.monotonic() - saved > settings.save_seconds:
                save(run, folder)
                saved = time.monotonic()
    save(run, folder)
    return run


def draw_batch(crops: Crops, phase: Phase, rng: np.random.Generator) -> Tensor:
    """Crops of one of the phase's sizes, [B, 3, side, side] in [-1, 1]."""
    side, count = phase.crops[rng.integers(len(phase.crops))] if len(phase.crops) > 1 else phase.crops[0]
    return crops.batch(count, side, phase.zoom, rng)

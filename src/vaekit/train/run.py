"""A training run: everything it consists of, so that it can be saved whole and taken up again at the exact step.

What is trained and on which loss is the subclasses' concern (`vae.py`, `tiny.py`, `diffusion.py`); here are the
optimizers, the moving average of the weights, the phases of the learning rate and the state on disk.
"""

from __future__ import annotations

import ast
import tomllib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from vaekit.engine.placement import computes_in_bfloat16
from vaekit.errors import FileError, NumericsError, OptionError, OutputError
from vaekit.train.muon import Muon

Losses = dict[str, float]


class Phase(BaseModel):
    """Part of a run. crops: (side in pixels, how many in a batch), one of them drawn for each step. rate: the peak
    as a share of the full learning rate; it falls linearly over the last `decay` part of the phase."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    crops: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(min_length=1)
    zoom: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    rate: PositiveFloat = 1.0
    decay: PositiveFloat = 1 / 3


class Recipe(BaseModel):
    """What every recipe says; recipes/mini-second.toml explains the numbers.

    smallest: the side in pixels that every picture must have. precision: "auto"
    is bfloat16 beside float32 where that is faster. save_seconds: how often the
    state is written, sample_seconds: how often the sheet and the curves are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phases: tuple[Phase, ...] = Field(min_length=1)
    lr_muon: PositiveFloat = 1e-2
    lr_adamw: PositiveFloat = 1e-3
    warmup: PositiveInt = 100
    ema: float = Field(default=0.995, ge=0, lt=1)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    smallest: PositiveInt = 64
    seed: int = 0
    save_seconds: float = 120.0
    sample_seconds: float = 300.0

    @classmethod
    def read(cls, path: Path) -> Self:
        """A recipe's file. Raises FileError, OptionError."""
        try:
            return cls(**tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise OptionError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        except ValueError as error:
            raise FileError(f"{path}: not valid TOML: {error}") from error


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 gains time there: GPUs, and CPUs that multiply it (AMX, AVX-512 BF16); others lose a third."""
    return device.type != "cpu" or computes_in_bfloat16()


class Run(ABC):
    """A network on its way. model: what is trained; average: the moving average of its weights, which is kept."""

    model: nn.Module
    average: nn.Module

    def __init__(self, recipe: Recipe, device: torch.device):
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = device
        self.rng = np.random.default_rng(recipe.seed)
        self.noise = torch.Generator().manual_seed(recipe.seed)
        self.step = 0
        self.mixed = recipe.precision == "bfloat16" or (recipe.precision == "auto" and has_fast_bfloat16(device))
        self.layout = torch.contiguous_format if self.mixed else torch.channels_last
        self.model = self.build().to(device).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.average = self.build().to(device).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        kernels = self.muon_parameters(trained)
        chosen = set(map(id, kernels))
        others = [p for p in trained if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(kernels, lr=recipe.lr_muon),
            torch.optim.AdamW(others, lr=recipe.lr_adamw, betas=(0.9, 0.99), weight_decay=0.0),
        ]
        self.full_rates = [recipe.lr_muon, recipe.lr_adamw]
        """Of the first optimizers; what a subclass adds keeps its own rate, whatever the phase."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network as it starts; parameters that stay as they are do not require a gradient."""

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, Losses]:
        """The loss of a batch and the numbers for the log; pictures [B, 3, H, W] in [-1, 1] if nothing else is said."""

    def muon_parameters(self, trained: list[nn.Parameter]) -> list[nn.Parameter]:
        """Those that Muon moves: the 3x3 kernels. The rest is AdamW's."""
        return [p for p in trained if p.ndim == 4 and p.shape[-1] == 3]

    def phase(self) -> tuple[Phase, int] | None:
        """The phase that the next step belongs to and the steps left in it; None when all are done."""
        end = 0
        for phase in self.recipe.phases:
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
        return min(phase.rate * min(1.0, left / (phase.decay * phase.steps)), (self.step + 1) / self.recipe.warmup)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    def train_step(self, batch: Any) -> Losses:
        """One update on a batch; the losses as numbers. Raises NumericsError where the loss is not finite."""
        rate = self.learning_rate()
        for optimizer, full in zip(self.optimizers, self.full_rates, strict=False):
            optimizer.param_groups[0]["lr"] = full * rate
        loss, numbers = self.loss(batch)
        if not torch.isfinite(loss):
            raise NumericsError(f"the loss is {loss.item()} at step {self.step}; the last saved state is kept")
        torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        return {"loss": loss.item(), **numbers, "rate": rate}

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            if value.requires_grad:
                mean.lerp_(value, 1 - keep)

    # On disk

    def modules(self) -> dict[str, nn.Module]:
        """The networks whose weights belong to the state."""
        return {"model": self.model, "average": self.average}

    def save(self, folder: Path) -> None:
        """Write the state so that a stop in the middle leaves the one before. Raises OutputError (disk full)."""
        state: dict[str, Any] = {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in self.modules().items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "noise": self.noise.get_state(),
            "rng": repr(self.rng.bit_generator.state),
        }
        temporary = folder / "state.pt.part"
        try:
            torch.save(state, temporary)
            temporary.replace(folder / "state.pt")
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"{folder / 'state.pt'}: not written: {error}; the state before is kept") from error

    def resume(self, folder: Path) -> None:
        """Go on from the state in the folder, if there is one. Raises FileError where it is of another recipe."""
        path = folder / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            for name, module in self.modules().items():
                module.load_state_dict(state["modules"][name])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.noise.set_state(state["noise"].cpu())
            self.rng.bit_generator.state = ast.literal_eval(state["rng"])
            self.step = int(state["step"])
        except Exception as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise FileError(f"{path}: not the state of this recipe ({reason}); take another --run folder") from error

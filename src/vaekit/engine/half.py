"""One direction of a VAE, ready to run: an encoder or a decoder, in a dtype, on a device."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from vaekit.engine.fast import attention, openvino, winograd
from vaekit.engine.fast.fused import fusing
from vaekit.engine.fast.gpu import WholeOnGPU
from vaekit.engine.fast.graphs import SHARE, Graphs
from vaekit.engine.fast.norms import norms
from vaekit.engine.fast.whole import Whole
from vaekit.engine.mapped import check, give_back
from vaekit.engine.placement import Engine
from vaekit.engine.strips import planning
from vaekit.engine.strips.budget import Budget, rounded_up
from vaekit.engine.strips.line import Line, line
from vaekit.engine.strips.running import Progress, Runner
from vaekit.engine.strips.stores import free_disk, spill_folder
from vaekit.engine.strips.task import Rates, Task
from vaekit.engine.strips.telling import Forecast, amount, size_of, whole_bytes
from vaekit.errors import NumericsError, OptionError, ResourceError
from vaekit.networks.config import KLConfig, NetworkConfig
from vaekit.networks.kl import KL
from vaekit.networks.moments import Moments
from vaekit.networks.tiny import Tiny

log = logging.getLogger("vaekit")

Direction = Literal["encode", "decode"]
Network = KL | Tiny
Result = TypeVar("Result")
Source = Callable[[int, int, Tensor], None]
Sink = Callable[[int, int, Tensor], None]
Told = Callable[[Progress], None]

ONE_PIECE_MARGIN = 1.15
"""So much more than predicted must be there before one piece is run: what the libraries take is not ours to count."""


@dataclass(frozen=True)
class Ration:
    """What a run may take. held, result: bytes of what it reads and of what it gives, which count as well.

    rows: force this height of strips. progress: called after every strip. rates:
    what the machine does in a second; None for what is usual. disk: bytes that may
    be spilled; None for what is free.
    """

    budget: Budget
    held: int = 0
    result: int = 0
    rows: int | None = None
    progress: Told | None = None
    rates: Rates | None = None
    disk: int | None = None


class Half:
    """A network with one half only. Results are float32, and never NaN.

    The weights are kept as they were read, so that a dtype that turned out too
    narrow can be left for float32 without having lost anything. Where another dtype
    runs they lie in their file alone, mapped, and take no memory.
    """

    def __init__(
        self,
        direction: Direction,
        config: NetworkConfig,
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        engine: Engine = "torch",
        ranges: openvino.Ranges | None = None,
    ):
        """ranges: what OpenVINO computes in int8 (vaekit.engine.int8) when pictures are run in one piece."""
        self.direction = direction
        self.config = _one_half(config, direction)
        self._state = {name: state[name] for name in self.config.shapes()}
        self.device = device
        self.dtype = dtype
        self.engine = engine
        self._ranges = ranges
        self._network: Network | None = None
        self._whole: Callable[[Tensor], Tensor] | None = None

    @property
    def network(self) -> Network:
        """The plain network, built when it is first needed."""
        if self._network is None:
            self._network = self._build()
        return self._network

    @property
    def whole(self) -> Callable[[Tensor], Tensor]:
        """What runs pictures in one piece: [B, C, H, W] -> [B, C', H', W'], made when it is first needed."""
        if self._whole is None:
            self._whole = self._make_whole()
        return self._whole

    def _make_whole(self) -> Callable[[Tensor], Tensor]:
        if self.engine == "reference":
            return _reference(self.network)
        if self.engine == "openvino" and self.line.padding == "zeros" and self.dtype in openvino.HINTS:
            compiled = openvino.compiled(self.line, self.bare(), self._state, self.dtype, self._ranges)
            give_back(self._state.values())
            return compiled
        if self.device.type == "cuda":
            return Graphs(WholeOnGPU(self.network, self.line, norms(self.device)))
        return Whole(self.network, self.line, at_points=self._winograd)

    @property
    def _winograd(self) -> bool:
        return self.engine == "torch" and winograd.available(self.device, self.dtype)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """As they were read, not to be changed."""
        return self._state

    @property
    def line(self) -> Line:
        return line(self.config, self.direction)

    def encode(self, x: Tensor) -> Moments:
        """x: [B, 3, H, W] float32 in [-1, 1] -> moments in float32, not folded. In one piece."""
        return self._on_tensors(x, Moments.from_channels if isinstance(self.config, KLConfig) else Moments)

    def decode(self, z: Tensor) -> Tensor:
        """z: raw latents [B, C, h, w] in float32, not folded -> pictures [B, 3, H, W] float32. In one piece."""
        return self._on_tensors(z, lambda pictures: pictures)

    def _on_tensors(self, x: Tensor, wrap: Callable[[Tensor], Result]) -> Result:
        batch, _, height, width = x.shape
        out = torch.empty((batch, *self.result_shape(height, width)), device=self.device)
        self.run((batch, height, width), rows_of(x), rows_into(out))
        return wrap(out)

    def result_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of what comes out of an input of this size."""
        last = len(self.line) - 1
        return self.line.steps[last].channels, self.line.side(last, height), self.line.side(last, width)

    def source_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the input that gives a result of this size."""
        zoom = self.line.steps[-1].zoom
        return (height >> zoom, width >> zoom) if zoom >= 0 else (height << -zoom, width << -zoom)

    def run(self, shape: tuple[int, int, int], source: Source, sink: Sink, ration: Ration | None = None) -> None:
        """Run on (batch, height, width) of pixels or cells, in one piece or in strips as the ration allows.

        source(picture, first, out): fills `out` [n, width, channels] with rows.
        sink(picture, first, rows): takes rows of the result, [n, width, channels];
        from the first picture and row again where the run is repeated because the
        dtype was too narrow. Without a ration it runs in one piece.

        Raises NumericsError, ResourceError, and OptionError for a budget that is too small.
        """
        try:
            self._run(shape, source, sink, ration)
        except _Overflow:
            if self.dtype == torch.float32:
                told = f"NaN or infinity came out of the {self.direction}r in float32: the VAE is broken"
                raise NumericsError(told) from None
            self._widen()
            self.run(shape, source, sink, ration)

    def forecast(self, shape: tuple[int, int, int], ration: Ration) -> Forecast:
        """How an input of this shape is run, in one piece where that fits, and what it takes. Raises like `run`."""
        batch, height, width = shape
        task = self.task(height, width, ration)
        undivided = whole_bytes(task, batch) * ONE_PIECE_MARGIN <= ration.budget.bytes
        if undivided and ration.rows is None and self.line.window is None:
            return Forecast(task, None, batch)
        if self.line.padding == "circular":
            return self._undivided(Forecast(task, None, batch), ration.budget)
        planned = planning.plan(task, ration.budget.bytes)
        if planned is None:
            raise _too_little(self.direction, task, ration.budget)
        return Forecast(task, planned, batch)

    def _undivided(self, forecast: Forecast, budget: Budget) -> Forecast:
        """Seamless pictures are not cut up: their first row sees the last."""
        if budget.asked:
            raise OptionError(
                f"{size_of(forecast.task)} with circular padding is {self.direction}d in one piece only, which takes "
                f"{rounded_up(forecast.memory * ONE_PIECE_MARGIN)}"
            )
        return forecast

    def task(self, height: int, width: int, ration: Ration) -> Task:
        """What is to be planned for one picture."""
        attending = (step.channels for step in self.line.steps if step.kind == "attend")
        return Task(
            self.line,
            height,
            width,
            item=self.dtype.itemsize,
            held=ration.held,
            result=ration.result,
            disk=free_disk(spill_folder()) if ration.disk is None else ration.disk,
            rates=ration.rates or Rates.usual(self.dtype.itemsize, gpu=self.device.type == "cuda"),
            rows=ration.rows,
            in_place=fusing(self.device, self.dtype),
            plain=self.engine != "torch",  # what OpenVINO takes is its own affair, and no less is certain
            gpu=self.device.type == "cuda",
            winograd=self._winograd,
            attends=self._winograd and all(attention.available(self.device, self.dtype, width) for width in attending),
            threads=torch.get_num_threads(),
            loading=winograd.loading() if self._winograd else 0,
        )

    def _run(self, shape: tuple[int, int, int], source: Source, sink: Sink, ration: Ration | None) -> None:
        if ration is None and self.line.window is not None:  # which only strips know
            ration = Ration(Budget(1 << 62, False))
        forecast = None if ration is None else self.forecast(shape, ration)
        told = f"{self.direction} {shape[0]} of {shape[2]}×{shape[1]} in {self.dtype} on {self.device}"
        with torch.inference_mode(), _enough_memory(told), _true_float32():
            if forecast is None or forecast.plan is None:
                self._run_whole(shape, source, sink, ration)
                return
            log.info("%s", forecast)
            progress = None if ration is None else ration.progress
            for picture in range(shape[0]):
                self._run_strips(forecast.plan, picture, shape[0], source, sink, progress)

    def _run_whole(self, shape: tuple[int, int, int], source: Source, sink: Sink, ration: Ration | None) -> None:
        batch, height, width = shape
        x = torch.empty((batch, height, width, self.line.steps[0].channels), dtype=self.dtype, device=self.device)
        for picture in range(batch):
            source(picture, 0, x[picture])
        x = x.permute(0, 3, 1, 2)
        if isinstance(self.whole, Graphs):
            result = self.whole(x, keep=self._may_hold(shape, ration))
        else:
            result = self.whole(x.contiguous() if self.engine == "reference" else x)
        for picture in range(batch):
            self._hand_on(sink, picture, 0, result[picture].permute(1, 2, 0))

    def _may_hold(self, shape: tuple[int, int, int], ration: Ration | None) -> bool:
        """Whether a CUDA graph of this size may hold its memory: not where memory was asked for, nor too much of it."""
        if ration is not None and ration.budget.asked:
            return False
        batch, height, width = shape
        task = self.task(height, width, ration or Ration(Budget(0, False)))
        return whole_bytes(task, batch) * SHARE <= torch.cuda.mem_get_info(self.device)[1]

    def _run_strips(
        self, plan: planning.Plan, picture: int, batch: int, source: Source, sink: Sink, progress: Told | None
    ) -> None:
        Runner(
            self.network,
            plan,
            lambda first, out: source(picture, first, out),
            lambda first, rows: self._hand_on(sink, picture, first, rows),
            dtype=self.dtype,
            device=self.device,
            folder=spill_folder(),
            told=None if progress is None else lambda one: progress(one.of_batch(picture, batch)),
        ).run()

    def _hand_on(self, sink: Sink, picture: int, first: int, rows: Tensor) -> None:
        """To the sink, if it is sound: the mean or the picture is finite, and a log-variance, clamped later, no NaN."""
        certain = rows[..., : self.config.latent_channels] if self.direction == "encode" else rows
        if not bool(torch.isfinite(certain).all()) or bool(rows.isnan().any()):
            raise _Overflow
        sink(picture, first, rows)

    def _widen(self) -> None:
        log.warning(
            "%s overflowed while trying to %s: repeated in float32, which this VAE keeps from now on",
            str(self.dtype).removeprefix("torch."),
            self.direction,
        )
        self.dtype = torch.float32
        self._network = self._whole = self._ranges = None

    def _build(self) -> Network:
        network = self.bare()
        check(self._state.values())
        with _enough_memory(f"hold the {self.direction}r in {self.dtype} on {self.device}"):
            # FLUX.2's statistics are applied in float32 whatever the network runs in
            state = {name: self._placed(name, tensor) for name, tensor in self._state.items()}
        network.load_state_dict(state, assign=True)
        if not any(state[name] is tensor for name, tensor in self._state.items() if not name.startswith("bn.")):
            give_back(self._state.values())
        return network.eval().requires_grad_(False)

    def bare(self) -> Network:
        """The plain network without weights."""
        with torch.device("meta"):
            return KL(self.config) if isinstance(self.config, KLConfig) else Tiny(self.config)

    def _placed(self, name: str, tensor: Tensor) -> Tensor:
        if name.startswith("bn."):
            return tensor.to(self.device, torch.float32)
        moves = tensor.dtype != self.dtype or self.device.type == "cuda"
        if tensor.ndim == 4 and moves and self.engine != "reference":
            return tensor.to(self.device, self.dtype, memory_format=torch.channels_last)
        return tensor.to(self.device, self.dtype)


class _Overflow(Exception):
    """NaN or infinity came out."""


def rows_of(x: Tensor) -> Source:
    """Tensors [B, C, H, W] as a source of rows."""

    def source(picture: int, first: int, out: Tensor) -> None:
        out.copy_(x[picture, :, first : first + out.shape[0]].permute(1, 2, 0))

    return source


def rows_into(x: Tensor) -> Sink:
    """A sink that fills tensors [B, C, H, W]."""

    def sink(picture: int, first: int, rows: Tensor) -> None:
        x[picture, :, first : first + rows.shape[0]] = rows.permute(2, 0, 1)

    return sink


def _reference(network: Network) -> Callable[[Tensor], Tensor]:
    """The plain network of one half as it stands; an encoder's mean and log-variance come stacked."""
    if network.decoder is not None:
        return network.decode

    def encode(x: Tensor) -> Tensor:
        moments = network.moments(x)
        return moments.mean if moments.logvar is None else torch.cat([moments.mean, moments.logvar], dim=1)

    return encode


def _too_little(direction: Direction, task: Task, budget: Budget) -> OptionError | ResourceError:
    told = f"{size_of(task)} cannot be {direction}d in {amount(budget.bytes)} of memory"
    told += f"; the least that does is {rounded_up(planning.smallest(task))}"
    roomy = planning.plan(replace(task, disk=math.inf), budget.bytes)
    if roomy is not None:
        told += f", or this with {amount(roomy.disk)} free in {spill_folder()}, where {amount(task.disk)} may be used"
    return OptionError(told) if budget.asked else ResourceError(f"{told}; that is half of what is free")


def _one_half(config: NetworkConfig, direction: Direction) -> NetworkConfig:
    if isinstance(config, KLConfig):
        return replace(config, decoder_channels=()) if direction == "encode" else replace(config, encoder_channels=())
    return replace(config, decoder_blocks=()) if direction == "encode" else replace(config, encoder_blocks=())


@contextmanager
def _true_float32() -> Iterator[None]:
    """Convolutions in float32 keep their 24 bits; on NVIDIA's GPUs PyTorch would else round them to TF32's 11."""
    of_convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, of_convolutions.fp32_precision = of_convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        of_convolutions.fp32_precision = before


@contextmanager
def _enough_memory(what: str) -> Iterator[None]:
    """Out of memory, in the several words of the allocators, as one ResourceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise ResourceError(f"not enough memory to {what.replace('torch.', '')}") from error
        raise

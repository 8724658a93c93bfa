"""One direction of a VAE, ready to run: an encoder or a decoder, in a dtype, on a device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from vaekit.errors import NumericsError, ResourceError
from vaekit.networks.config import KLConfig, NetworkConfig
from vaekit.networks.kl import KL
from vaekit.networks.moments import Moments
from vaekit.networks.tiny import Tiny

log = logging.getLogger("vaekit")

Direction = Literal["encode", "decode"]
Network = KL | Tiny
Result = TypeVar("Result", Tensor, Moments)


class Half:
    """A network with one half only. Results are float32 on the network's device, and never NaN.

    The weights are kept as they were read, so that a dtype that turned out too
    narrow can be left for float32 without having lost anything.
    """

    def __init__(
        self,
        direction: Direction,
        config: NetworkConfig,
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.direction = direction
        self.config = _one_half(config, direction)
        self._state = {name: state[name] for name in self.config.shapes()}
        self.device = device
        self.dtype = dtype
        self.network = self._build()

    def encode(self, x: Tensor) -> Moments:
        """x: [B, 3, H, W] float32 in [-1, 1] -> moments in float32, not folded."""
        return self._run(x, lambda network, x: _widen_moments(network.moments(x)), lambda m: m.mean)

    def decode(self, z: Tensor) -> Tensor:
        """z: raw latents [B, C, h, w] in float32, not folded -> pictures [B, 3, H, W] float32, about [-1, 1]."""
        return self._run(z, lambda network, z: network.decode(z).float(), lambda x: x)

    def _run(self, x: Tensor, call: Callable[[Network, Tensor], Result], values: Callable[[Result], Tensor]) -> Result:
        """Run once; on NaN or infinity once more in float32, and stay there."""
        result = self._call(x, call)
        if not bool(torch.isfinite(values(result)).all()) and self.dtype != torch.float32:
            log.warning(
                "%s overflowed while trying to %s: repeated in float32, which this VAE keeps from now on",
                str(self.dtype).removeprefix("torch."),
                self.direction,
            )
            self.dtype = torch.float32
            self.network = self._build()
            result = self._call(x, call)
        if not bool(torch.isfinite(values(result)).all()):
            raise NumericsError(f"NaN or infinity came out of the {self.direction}r in float32: the VAE is broken")
        return result

    def _call(self, x: Tensor, call: Callable[[Network, Tensor], Result]) -> Result:
        with (
            torch.inference_mode(),
            _enough_memory(f"{self.direction} {list(x.shape)} in {self.dtype} on {self.device}"),
        ):
            return call(self.network, x.to(self.device, self.dtype))

    def _build(self) -> Network:
        with torch.device("meta"):
            network: Network = KL(self.config) if isinstance(self.config, KLConfig) else Tiny(self.config)
        with _enough_memory(f"hold the {self.direction}r in {self.dtype} on {self.device}"):
            # FLUX.2's statistics are applied in float32 whatever the network runs in
            state = {
                name: tensor.to(self.device, torch.float32 if name.startswith("bn.") else self.dtype)
                for name, tensor in self._state.items()
            }
        network.load_state_dict(state, assign=True)
        return network.eval().requires_grad_(False)


def _one_half(config: NetworkConfig, direction: Direction) -> NetworkConfig:
    if isinstance(config, KLConfig):
        return replace(config, decoder_channels=()) if direction == "encode" else replace(config, encoder_channels=())
    return replace(config, decoder_blocks=()) if direction == "encode" else replace(config, encoder_blocks=())


def _widen_moments(moments: Moments) -> Moments:
    return Moments(moments.mean.float(), None if moments.logvar is None else moments.logvar.float())


@contextmanager
def _enough_memory(what: str) -> Iterator[None]:
    """Out of memory, in the several words of the allocators, as one ResourceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise ResourceError(f"not enough memory to {what.replace('torch.', '')}") from error
        raise

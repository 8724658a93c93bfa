"""What is measured: the weights of a VAE, or random ones of the size that Stable Diffusion's has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.read import read
from vaekit.engine.fast.openvino import Ranges
from vaekit.engine.strips.line import Direction, Line, line
from vaekit.errors import OptionError
from vaekit.families import family
from vaekit.loading import find
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig
from vaekit.networks.kl import KL
from vaekit.networks.tiny import Tiny

FULL_SIZE: dict[str, NetworkConfig] = {
    "kl": KLConfig(4, (128, 256, 512, 512), (128, 256, 512, 512)),
    "tiny": TinyConfig(4, 64, (1, 3, 3, 3), (3, 3, 3, 1)),
}


@dataclass(frozen=True)
class Subject:
    """One direction of a network with its weights.

    source: what they were read from, where they are not random. ranges: of int8 (vaekit.bench.int8), where it runs.
    """

    name: str
    config: NetworkConfig
    state: Mapping[str, Tensor]
    direction: Direction
    source: str | None = None
    ranges: Ranges | None = None

    @property
    def line(self) -> Line:
        return line(self.config, self.direction)

    def example(self, side: int, batch: int) -> Tensor:
        """An input for pictures of side × side: [batch, C, h, w] in float32, always the same."""
        cells = side // self.config.downscale * self.config.patch_size
        noise = torch.Generator().manual_seed(0)
        if self.direction == "decode":
            return torch.randn(batch, self.config.latent_channels, cells, cells, generator=noise)
        return torch.rand(batch, 3, side, side, generator=noise) * 2 - 1

    def save(self, path: Path) -> None:
        """The weights as a safetensors file, which `subject` takes for a VAE."""
        save_file(arrange(self.state, self.config, "diffusers"), path)

    def operations(self, side: int, batch: int) -> float:
        """Multiplications and additions that it takes, with folded enlargement."""
        height, width = self.example(side, 1).shape[2:]
        return batch * sum(self.line.operations(step, height, width) for step in range(len(self.line)))


def subject(vae: str | None, kind: str, direction: str) -> Subject:
    """vae: as for `vaekit.load`; without one, random weights of a kind, kl or tiny. Raises OptionError."""
    if direction not in ("encode", "decode"):
        raise OptionError(f"a direction is encode or decode, not {direction!r}")
    if vae is not None:
        weights = read(find(vae))
        config = weights.identity.config
        if not (config.has_encoder if direction == "encode" else config.has_decoder):
            raise OptionError(f"{vae} cannot {direction}")
        return Subject(vae, config, weights.state, direction, vae)  # type: ignore[arg-type]
    if kind not in FULL_SIZE:
        raise OptionError(f"no kind of network is called {kind!r}; there are kl and tiny")
    config = FULL_SIZE[kind]
    torch.manual_seed(0)
    network = KL(config) if isinstance(config, KLConfig) else Tiny(config)
    return Subject(f"random weights of full size ({kind})", config, network.state_dict(), direction)  # type: ignore[arg-type]


FAMILY = family("sd1")
"""Only for what diffusers wants to be told; scaling is not measured."""

"""A VAE as diffusers' pipelines expect theirs: `pipe.vae = vae.as_diffusers()`.

What runs is vaekit's network, placed as vaekit places it: encoding in float32 by
default, repeated in float32 where half precision overflows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.folder import SAMPLE_SIDE, diffusers_config, write_folder
from vaekit.checkpoints.write import stored
from vaekit.engine.half import Half, Ration, rows_into, rows_of
from vaekit.engine.placement import Placement
from vaekit.engine.strips.budget import Memory, settle
from vaekit.errors import OptionError, VaekitError
from vaekit.families import Family
from vaekit.networks.config import KLConfig, NetworkConfig

log = logging.getLogger("vaekit")


@dataclass(frozen=True)
class Parts:
    """What a VAE consists of. place: builds a half anew for a dtype and a device."""

    name: str
    family: Family
    config: NetworkConfig
    state: Mapping[str, Tensor]
    placement: Placement
    encoder: Half | None
    decoder: Half | None
    place: Callable[[Placement], tuple[Half | None, Half | None]]


class DropIn(nn.Module):
    """Behaves as diffusers' AutoencoderKL (or AutoencoderTiny) where pipelines use one.

    Latents are raw, as there: pipelines apply config.scaling_factor and
    shift_factor themselves. It runs and does not train. memory: what a run may take
    once tiling is enabled, bytes or "1GiB"; None for half of what is free.
    """

    memory: Memory = None

    def __init__(self, parts: Parts):
        super().__init__()
        if isinstance(parts.config, KLConfig) and parts.config.patch_size > 1:
            raise OptionError(f"{parts.name}: {parts.family.name}'s pipelines fold latents themselves; load it there")
        self._parts = parts
        self.use_slicing = self.use_tiling = False
        self.config = FrozenDict(_config(parts) | {"force_upcast": False})
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of decoding; encoding may run in a wider one."""
        half = self._parts.decoder or self._parts.encoder
        assert half is not None
        return half.dtype

    @property
    def device(self) -> torch.device:
        return self._parts.placement.device

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """x: [B, 3, H, W] in [-1, 1], sides multiples of the downscale -> raw latents' distribution, or tiny latents.

        Raises VaekitError for a decoder-only VAE, NumericsError, ResourceError.
        """
        encoder = self._parts.encoder
        if encoder is None:
            raise VaekitError(f"{self._parts.name} has no encoder; it only decodes")
        out = self._run(encoder, x).to(x.dtype)
        if not isinstance(self._parts.config, KLConfig):
            return AutoencoderTinyOutput(latents=out) if return_dict else (out,)
        posterior = DiagonalGaussianDistribution(out)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """z: raw latents [B, C, h, w] -> pictures [B, 3, H, W], about [-1, 1], in the dtype of z.

        generator is taken as diffusers' own class takes it; nothing is drawn.
        Raises VaekitError for an encoder-only VAE, NumericsError, ResourceError.
        """
        decoder = self._parts.decoder
        if decoder is None:
            raise VaekitError(f"{self._parts.name} has no decoder; it only encodes")
        sample = self._run(decoder, z).to(z.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _run(self, half: Half, x: Tensor) -> Tensor:
        """A batch at once or one by one, in strips where that was enabled and one piece takes too much."""
        x = x.float()
        count, _, height, width = x.shape
        out = torch.empty((count, *half.result_shape(height, width)), device=half.device)
        ration = None
        if self.use_tiling:  # the result lies there twice while its dtype changes
            ration = Ration(settle(self.memory, half.device), x.nbytes, 2 * out.nbytes)
        size = 1 if self.use_slicing else count
        for part, into in zip(torch.split(x, size), torch.split(out, size), strict=True):
            half.run((len(part), height, width), rows_of(part), rows_into(into), ration)
        return out

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> Any:
        """There and back, by the posterior's mean or a draw from it."""
        encoded = self.encode(sample)
        if hasattr(encoded, "latents"):
            return self.decode(encoded.latents, return_dict=return_dict)
        posterior = encoded.latent_dist
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict)

    # Where it runs

    def to(self, *args: Any, **kwargs: Any) -> DropIn:
        """As nn.Module.to: a device, a dtype, or both; from the weights as they were read."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        before = self._parts.placement
        after = replace(
            before,
            device=device or before.device,
            encode_dtype=dtype or before.encode_dtype,
            decode_dtype=dtype or before.decode_dtype,
            why="as asked",
        )
        if (after.device, after.encode_dtype, after.decode_dtype) != (
            before.device,
            before.encode_dtype,
            before.decode_dtype,
        ):
            encoder, decoder = self._parts.place(after)
            self._parts = replace(self._parts, placement=after, encoder=encoder, decoder=decoder)
        return self

    def half(self) -> DropIn:
        return self.to(torch.float16)

    def float(self) -> DropIn:
        return self.to(torch.float32)

    def bfloat16(self) -> DropIn:
        return self.to(torch.bfloat16)

    def cuda(self, device: int | torch.device | None = None) -> DropIn:
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def cpu(self) -> DropIn:
        return self.to("cpu")

    # What else pipelines and people call

    def enable_slicing(self) -> None:
        """Take the pictures of a batch one by one."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        self.use_slicing = False

    def enable_tiling(self, use_tiling: bool = True, *sizes: Any, **more: Any) -> None:
        """Go in strips where one piece takes more than `memory`; the result is exact, and sizes of tiles are not used.

        Raises OptionError for seamless VAEs, which are not cut up.
        """
        if use_tiling is False:
            self.disable_tiling()
            return
        half = self._parts.decoder or self._parts.encoder
        if half is not None and half.line.padding == "circular":
            raise OptionError(f"{self._parts.name} is seamless, and runs in one piece only: nothing can be tiled")
        self.use_tiling = True
        given = use_tiling is not True or sizes or more
        told = "the sizes of tiles that were given are not used" if given else "there are no tiles and no seams"
        log.info("%s goes in strips where memory is short: the result is exact, and %s", self._parts.name, told)

    def disable_tiling(self) -> None:
        self.use_tiling = False

    def train(self, mode: bool = True) -> DropIn:
        if mode:
            raise OptionError("this VAE runs and does not train; vaekit train does that")
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> DropIn:
        if requires_grad:
            raise OptionError("this VAE runs and does not train; vaekit train does that")
        return self

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights as they run, under the names of the original code."""
        for half in (self._parts.encoder, self._parts.decoder):
            if half is not None:
                yield from half.network.named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights as they were read, under diffusers' names."""
        return dict(arrange(self._parts.state, self._parts.config, "diffusers"))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write config.json and weights, as `DiffusionPipeline.save_pretrained` asks; weights as they were read."""
        parts = self._parts
        entries = {name: stored(tensor.cpu()) for name, tensor in self.state_dict().items()}
        config = diffusers_config(parts.config, parts.family)
        write_folder(Path(save_directory), config, entries, {"format": "pt"}, force=True)


def _config(parts: Parts) -> dict[str, Any]:
    """What pipelines read of a VAE; diffusers' own configuration where it has a class for the network."""
    try:
        return diffusers_config(parts.config, parts.family)
    except OptionError:  # half a VAE, unequal halves: pipelines need these alone
        config, family = parts.config, parts.family
        tiny = not isinstance(config, KLConfig)
        stages = len(config.encoder_blocks or config.decoder_blocks) if tiny else 0  # type: ignore[arg-type]
        widths = [config.width] * stages if not isinstance(config, KLConfig) else _widths(config)
        return {
            "_class_name": "AutoencoderTiny" if tiny else "AutoencoderKL",
            "block_out_channels": widths,
            "encoder_block_out_channels": widths,
            "in_channels": 3,
            "latent_channels": config.latent_channels,
            "out_channels": 3,
            "sample_size": SAMPLE_SIDE,
            "scaling_factor": 1.0 if tiny else family.scaling_factor,
            "shift_factor": None if tiny else family.shift_factor or None,
        }


def _widths(config: KLConfig) -> list[int]:
    return list(config.encoder_channels or config.decoder_channels)

"""The VAE: pictures in, latents out, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vaekit import images
from vaekit.checkpoints.fingerprint import Fingerprint, fingerprint
from vaekit.engine.half import Half, Ration, Told, rows_into, rows_of
from vaekit.engine.placement import Placement
from vaekit.engine.strips.budget import Memory, settle
from vaekit.errors import FamilyError, LatentsError, OptionError, VaekitError
from vaekit.families import Family
from vaekit.latents import Latents
from vaekit.networks.config import KLConfig, NetworkConfig
from vaekit.networks.moments import Moments

if TYPE_CHECKING:
    from vaekit.drop_in import DropIn

log = logging.getLogger("vaekit")

Output = images.Output
Decoded = Image.Image | list[Image.Image] | npt.NDArray[np.uint8] | Tensor


class VAE:
    """A network plus the family it belongs to; has an encoder, a decoder, or both.

    Made by `vaekit.load`. name: what it was loaded as. config: its architecture.
    """

    def __init__(
        self, name: str, family: Family, config: NetworkConfig, state: Mapping[str, Tensor], placement: Placement
    ):
        self.name = name
        self.family = family
        self.config = config
        self.placement = placement = placement.suited_to(config)
        self._state = state
        self._encoder = self._half("encode", placement.encode_dtype) if config.has_encoder else None
        self._decoder = self._half("decode", placement.decode_dtype) if config.has_decoder else None

    def _half(self, direction: Literal["encode", "decode"], dtype: torch.dtype) -> Half:
        placement = self.placement
        return Half(direction, self.config, self._state, dtype=dtype, device=placement.device, engine=placement.engine)

    @property
    def can_encode(self) -> bool:
        return self._encoder is not None

    @property
    def can_decode(self) -> bool:
        return self._decoder is not None

    @property
    def parameters(self) -> int:
        """How many numbers the network consists of."""
        return sum(tensor.numel() for tensor in self._state.values())

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Hash of the weights; see vaekit.checkpoints.fingerprint."""
        return fingerprint(self._state)

    def describe(self) -> str:
        """One line: what it is and where it runs."""
        halves = {(True, True): "", (True, False): ", encoder only", (False, True): ", decoder only"}
        return (
            f"{self.name}: {self.config.kind} VAE of {self.family.name}, {self.family.latent_channels} channels, "
            f"1/{self.family.downscale} of the side, {self.parameters / 1e6:.1f} M parameters"
            f"{halves[self.can_encode, self.can_decode]}; on {self.placement}"
        )

    def __repr__(self) -> str:
        return f"<VAE {self.describe()}>"

    # Pictures to latents

    def encode(
        self,
        pictures: images.PictureSource | list[images.PictureSource],
        *,
        sample: bool = False,
        seed: int | None = None,
        alpha: str = "keep",
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> Latents:
        """Encode a picture, or several of one size.

        pictures: path, PIL picture, numpy array (uint8, uint16, or float in
        [0, 1]), tensor ([B, 3, H, W] in [-1, 1] or uint8), or a list of them. Any
        size from 1×1: padded by reflection to a multiple of the downscale.
        sample: draw from the posterior instead of taking its mean; picture i is
        drawn with seed + i. alpha: "keep" puts transparency aside into the
        latents, a colour composites on it. max_pixels: larger files are refused.
        memory: bytes or "1GiB", the most that the process takes beside what it
        holds already (docs/memory.md); by default half of what is free. progress: called
        after each strip.

        Returns Latents in model space, float32. Raises PictureError, OptionError,
        NumericsError, ResourceError, and VaekitError for a decoder-only VAE.
        """
        if self._encoder is None:
            raise VaekitError(f"{self.name} has no encoder; it only decodes")
        self._check_sampling(sample, seed)
        read = images.read(pictures, alpha=alpha, max_pixels=max_pixels)
        for note in read.notes:
            log.info("%s", note)
        moments = self._moments(images.pad(read.pixels, self.family.downscale), memory, progress)
        raw = _draw(moments, seed) if sample else moments.mean
        tensor = self._to_model_space(raw).cpu()
        return Latents(tensor, self.family, read.size, vae=self.fingerprint.vae, alpha=read.alpha)

    def _moments(self, pixels: Tensor, memory: Memory, progress: Told | None) -> Moments:
        """pixels: [B, 3, H, W], padded -> moments, not folded."""
        assert self._encoder is not None
        batch, _, height, width = pixels.shape
        out = torch.empty((batch, *self._encoder.result_shape(height, width)), device=self.placement.device)
        held, result = (4 * tensor.numel() for tensor in (pixels, out))
        ration = Ration(settle(memory, self.placement.device), held, 3 * result, progress=progress)
        self._encoder.run((batch, height, width), rows_of(pixels), rows_into(out), ration)
        return Moments.from_channels(out) if isinstance(self.config, KLConfig) else Moments(out)

    def _check_sampling(self, sample: bool, seed: int | None) -> None:
        if seed is not None and not sample:
            raise OptionError("a seed does nothing without sampling: ask for both or neither")
        if sample and not isinstance(self.config, KLConfig):
            raise OptionError(f"{self.name} is a tiny VAE without a posterior: there is nothing to sample from")

    def _to_model_space(self, raw: Tensor) -> Tensor:
        assert self._encoder is not None
        folded = self._encoder.network.fold(raw) if self.config.patch_size > 1 else raw
        return self.family.scale(folded) if isinstance(self.config, KLConfig) else folded

    # Latents to pictures

    @overload
    def decode(
        self,
        latents: Latents | Tensor,
        *,
        output: Literal["pil"] = "pil",
        any_family: bool = False,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> Image.Image | list[Image.Image]: ...

    @overload
    def decode(
        self,
        latents: Latents | Tensor,
        *,
        output: Literal["numpy"],
        any_family: bool = False,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> np.ndarray: ...

    @overload
    def decode(
        self,
        latents: Latents | Tensor,
        *,
        output: Literal["tensor"],
        any_family: bool = False,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> Tensor: ...

    def decode(
        self,
        latents: Latents | Tensor,
        *,
        output: Output = "pil",
        any_family: bool = False,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> Decoded:
        """Decode latents to pictures of exactly the size that was encoded.

        latents: Latents, or a tensor [B, C, h, w] in this family's model space.
        output: "pil" gives a picture (a list for a batch; RGBA where alpha was
        put aside), "numpy" uint8 [B, H, W, 3], "tensor" float32 [B, 3, H, W] in
        [-1, 1] on the CPU. any_family: decode latents of another family all the same.
        memory: bytes or "1GiB", the most that the process takes beside what it
        holds already (docs/memory.md); by default half of what is free. progress: called
        after each strip.

        Raises FamilyError, LatentsError, OptionError, NumericsError, ResourceError,
        and VaekitError for an encoder-only VAE.
        """
        if self._decoder is None:
            raise VaekitError(f"{self.name} has no decoder; it only encodes")
        if output not in ("pil", "numpy", "tensor"):
            raise OptionError(f"no output is called {output!r}; there are pil, numpy and tensor")
        latents = self._as_latents(latents)
        self._check_family(latents.family, any_family)
        raw = self._to_raw(latents.tensor.to(self.placement.device, torch.float32))
        batch, _, height, width = raw.shape
        result = images.Canvas.bytes(output, batch, latents.size)
        ration = Ration(settle(memory, self.placement.device), 4 * raw.numel(), result, progress=progress)
        canvas = images.Canvas(output, batch, latents.size, latents.alpha)
        self._decoder.run((batch, height, width), rows_of(raw), canvas.write, ration)
        pictures = canvas.finish()
        return pictures[0] if isinstance(pictures, list) and len(pictures) == 1 else pictures

    def _as_latents(self, latents: Latents | Tensor) -> Latents:
        if isinstance(latents, Tensor):
            if latents.ndim != 4:
                raise LatentsError(f"latents are [batch, channels, height, width], not {list(latents.shape)}")
            side = self.family.downscale
            latents = Latents(latents, self.family, (latents.shape[3] * side, latents.shape[2] * side))
        if not bool(torch.isfinite(latents.tensor).all()):
            raise LatentsError("these latents hold NaN or infinite values; no VAE can decode them")
        return latents

    def _check_family(self, other: Family, any_family: bool) -> None:
        if other.same_space(self.family):
            return
        if (other.latent_channels, other.downscale) != (self.family.latent_channels, self.family.downscale):
            raise FamilyError(
                f"these latents are of {other.name} ({other.latent_channels} channels, 1/{other.downscale}), "
                f"{self.name} decodes {self.family.name} ({self.family.latent_channels} channels, "
                f"1/{self.family.downscale}): they cannot fit; take a VAE of {other.name}"
            )
        if not any_family:
            raise FamilyError(
                f"these latents are of {other.name}, {self.name} decodes {self.family.name}: the shapes fit, but the "
                f"numbers mean other things, and the picture would be nonsense in wrong colours; take a VAE of "
                f"{other.name} (or any_family=True, --any-family, to see it)"
            )
        log.warning("decoding latents of %s as if they were %s: expect nonsense", other.name, self.family.name)

    def _to_raw(self, tensor: Tensor) -> Tensor:
        assert self._decoder is not None
        unscaled = self.family.unscale(tensor) if isinstance(self.config, KLConfig) else tensor
        return self._decoder.network.unfold(unscaled) if self.config.patch_size > 1 else unscaled

    # Into diffusers, and elsewhere

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights as they were read, under our names; to make another VAE of them, not to change them."""
        return self._state

    def as_diffusers(self) -> DropIn:
        """This VAE for diffusers' pipelines: `pipe.vae = vae.as_diffusers()`; see vaekit.drop_in.

        It shares the weights with this one. Raises OptionError for FLUX.2's, whose
        pipelines fold the latents themselves.
        """
        from vaekit.drop_in import DropIn, Parts

        def place(placement: Placement) -> tuple[Half | None, Half | None]:
            moved = VAE(self.name, self.family, self.config, self._state, placement)
            return moved._encoder, moved._decoder

        halves = (self._encoder, self._decoder)
        return DropIn(Parts(self.name, self.family, self.config, self._state, self.placement, *halves, place))


def _draw(moments: Moments, seed: int | None) -> Tensor:
    """Each picture of a batch with a seed of its own, so that it comes out the same as alone."""
    drawn = []
    for i in range(moments.mean.shape[0]):
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed + i)
        logvar = None if moments.logvar is None else moments.logvar[i : i + 1]
        drawn.append(Moments(moments.mean[i : i + 1], logvar).sample(generator))
    return torch.cat(drawn)

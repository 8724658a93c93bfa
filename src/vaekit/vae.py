"""The VAE: pictures in, latents out, and back."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vaekit import batches, images
from vaekit.checkpoints.fingerprint import Fingerprint, fingerprint
from vaekit.engine.half import Direction, Half, Ration, Sink, Source, Told, rows_into, rows_of
from vaekit.engine.int8 import Int8
from vaekit.engine.mapped import give_back
from vaekit.engine.placement import Placement
from vaekit.engine.strips.budget import Memory, parse, settle
from vaekit.engine.strips.calibration import calibrate
from vaekit.engine.strips.task import Rates
from vaekit.engine.strips.telling import Forecast
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
        self,
        name: str,
        family: Family,
        config: NetworkConfig,
        state: Mapping[str, Tensor],
        placement: Placement,
        int8: Mapping[Direction, Int8] | None = None,
    ):
        """int8: how each half is run in int8 (vaekit.engine.int8)."""
        self.name = name
        self.family = family
        self.config = config
        self.placement = placement = placement.suited_to(config)
        self._state = state
        self._int8 = int8 or {}
        self._encoder = self._half("encode", placement.encode_dtype) if config.has_encoder else None
        self._decoder = self._half("decode", placement.decode_dtype) if config.has_decoder else None

    def _half(self, direction: Direction, dtype: torch.dtype) -> Half:
        placement, int8 = self.placement, self._int8.get(direction)
        return Half(
            direction,
            self.config,
            self._state,
            dtype=dtype,
            device=placement.device,
            engine=placement.engine,
            ranges=None if int8 is None else int8.ranges,
        )

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
        found = fingerprint(self._state)
        give_back(self._state.values())
        return found

    def describe(self) -> str:
        """One line: what it is and where it runs."""
        halves = {(True, True): "", (True, False): ", encoder only", (False, True): ", decoder only"}
        return (
            f"{self.name}: {self.config.kind} VAE of {self.family.name}, {self.family.latent_channels} channels, "
            f"1/{self.family.downscale} of the side, {self.parameters / 1e6:.1f} M parameters"
            f"{halves[self.can_encode, self.can_decode]}; on {self.placement}"
            + "".join(f"; {direction}: {int8}" for direction, int8 in self._int8.items())
        )

    def __repr__(self) -> str:
        return f"<VAE {self.describe()}>"

    # Pictures to latents

    def encode(
        self,
        pictures: images.PictureSource | list[images.PictureSource] | images.Pictures,
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
        [0, 1]), tensor ([B, 3, H, W] in [-1, 1] or uint8), a list of them, or what
        `images.read` made of these. Any size from 1×1: padded by reflection to a multiple of the downscale.
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
        if isinstance(pictures, str | os.PathLike) and (rows := images.open_rows(pictures, max_pixels=max_pixels)):
            with rows:
                return self._encode_rows(rows, sample, seed, memory, progress)
        if isinstance(pictures, images.Pictures):
            read = pictures
        else:
            read = images.read(pictures, alpha=alpha, max_pixels=max_pixels)
        for note in read.notes:
            log.info("%s", note)
        pixels = images.pad(read.pixels, self.family.downscale)
        batch, _, height, width = pixels.shape
        moments = self._raw((batch, height, width), rows_of(pixels), 4 * pixels.numel(), memory, progress)
        raw = _draw(moments, seed) if sample else moments.mean
        tensor = self._to_model_space(raw).cpu()
        return Latents(tensor, self.family, read.size, vae=self.fingerprint.vae, alpha=read.alpha)

    def encode_many(
        self,
        pictures: Iterable[images.PictureSource],
        *,
        sample: bool = False,
        seed: int | None = None,
        alpha: str = "keep",
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> Iterator[Latents | VaekitError]:
        """Encode any number of pictures of any sizes, in their order; each comes out as `encode` gives it alone.

        Files are read in a thread while others are encoded, a few ahead; with `memory`,
        and where they are large, only in their turn. What cannot be encoded gives its
        VaekitError in its place, and the others go on. The arguments are those of
        `encode`; every picture is drawn with `seed` itself.
        """
        if self._encoder is None:
            raise VaekitError(f"{self.name} has no encoder; it only decodes")
        self._check_sampling(sample, seed)
        read = {"alpha": alpha, "max_pixels": max_pixels}
        how = {"sample": sample, "seed": seed, "memory": memory, "progress": progress}
        return batches.encoded(
            partial(self.encode, **read, **how),  # type: ignore[arg-type]
            pictures,
            read=partial(images.read, **read),  # type: ignore[arg-type]
            in_turn=memory is not None,
            together=self.gains_by_batches,
        )

    @property
    def gains_by_batches(self) -> bool:
        """Tiny networks, by a quarter. In a batch of others the last bits change, and large ones are no quicker."""
        return self.config.kind == "tiny"

    def _encode_rows(
        self, picture: images.RowPicture, sample: bool, seed: int | None, memory: Memory, progress: Told | None
    ) -> Latents:
        """A picture that is read as it is needed."""
        side = self.family.downscale
        width, height = (-(-length // side) * side for length in picture.size)
        raw = self._raw((1, height, width), lambda _, first, out: picture.read(first, out), 0, memory, progress)
        tensor = self._to_model_space(_draw(raw, seed) if sample else raw.mean).cpu()
        return Latents(tensor, self.family, picture.size, vae=self.fingerprint.vae)

    def _raw(
        self, shape: tuple[int, int, int], source: Source, held: int, memory: Memory, progress: Told | None
    ) -> Moments:
        """Moments, not folded, of (batch, height, width) of padded pixels; held: bytes that those take."""
        assert self._encoder is not None
        out = torch.empty((shape[0], *self._encoder.result_shape(*shape[1:])), device=self.placement.device)
        self._encoder.run(shape, source, rows_into(out), self._encoding(shape, held, memory, progress))
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
        if output not in ("pil", "numpy", "tensor"):
            raise OptionError(f"no output is called {output!r}; there are pil, numpy and tensor")
        latents = self._decodable(latents, any_family)
        canvas = images.Canvas(output, len(latents.tensor), latents.size, latents.alpha)
        self._decode(latents, canvas.write, output, memory, progress)
        pictures = canvas.finish()
        return pictures[0] if isinstance(pictures, list) and len(pictures) == 1 else pictures

    def decode_to(
        self,
        latents: Latents | Tensor,
        path: Path,
        *,
        any_family: bool = False,
        memory: Memory = None,
        progress: Told | None = None,
        force: bool = False,
    ) -> None:
        """Decode one picture into a PNG or TIFF file strip by strip: it never lies in memory as a whole.

        The arguments are those of `decode`; transparency that was put aside is left
        out. Raises as `decode` does, and OutputError.
        """
        latents = self._decodable(latents, any_family)
        if len(latents.tensor) != 1:
            raise OptionError(f"a file takes one picture, and these latents hold {len(latents.tensor)}")
        with images.write_rows(path, latents.size, force=force) as file:
            self._decode(latents, lambda _, first, rows: file.write(first, rows), None, memory, progress)

    def decode_many(
        self,
        latents: Iterable[Latents | str | os.PathLike[str]],
        *,
        scaled: bool | None = None,
        any_family: bool = False,
        memory: Memory = None,
        progress: Told | None = None,
    ) -> Iterator[Image.Image | list[Image.Image] | VaekitError]:
        """Decode any number of latents, or files of them, in their order; each comes out as `decode` gives it alone.

        Files are read in a thread while others are decoded, a few ahead; with `memory`
        only in their turn. What cannot be decoded gives its VaekitError in its place,
        and the others go on. scaled: as for `Latents.load`; a file that does not tell
        its family is taken as this VAE's. The other arguments are those of `decode`.
        """
        if self._decoder is None:
            raise VaekitError(f"{self.name} has no decoder; it only encodes")

        def read(source: Latents | str | os.PathLike[str]) -> Latents:
            return source if isinstance(source, Latents) else self.load_latents(source, scaled=scaled)

        def draw(pairs: list[tuple[Any, Latents]]) -> list[Image.Image | list[Image.Image]]:
            drawn = batches.at_once(decode, [one for _, one in pairs])
            return [pictures if len(pictures) > 1 else pictures[0] for pictures in drawn]

        decode = partial(self.decode, any_family=any_family, memory=memory, progress=progress)
        return batches.decoded(draw, latents, read=read, in_turn=memory is not None, together=self.gains_by_batches)

    def load_latents(self, path: str | os.PathLike[str], *, scaled: bool | None = None) -> Latents:
        """Latents from a file; those that do not tell their family are taken as this VAE's, and that is told."""
        try:
            return Latents.load(Path(path), scaled=scaled)
        except FamilyError:
            log.info("%s does not tell its family; taken as %s, the VAE's", path, self.family.name)
            return Latents.load(Path(path), scaled=scaled, family=self.family)

    def _decodable(self, latents: Latents | Tensor, any_family: bool) -> Latents:
        if self._decoder is None:
            raise VaekitError(f"{self.name} has no decoder; it only encodes")
        latents = self._as_latents(latents)
        self._check_family(latents.family, any_family)
        return latents

    def _decode(
        self, latents: Latents, sink: Sink, output: Output | None, memory: Memory, progress: Told | None
    ) -> None:
        assert self._decoder is not None
        raw = self._to_raw(latents.tensor.to(self.placement.device, torch.float32))
        batch, _, height, width = raw.shape
        ration = self._decoding(batch, latents.size, output, memory, progress)
        self._decoder.run((batch, height, width), rows_of(raw), sink, ration)

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

    # How much that takes

    def forecast(
        self,
        size: tuple[int, int],
        *,
        direction: Literal["encode", "decode"] = "decode",
        memory: Memory = None,
        batch: int = 1,
        output: Output | None = "pil",
        disk: Memory = None,
    ) -> Forecast:
        """How pictures of this size would be decoded, or encoded, inside that memory, and what it takes.

        size: (width, height) in pixels. The other arguments are those of `encode` and
        `decode`; output None stands for `decode_to`. disk: what may be spilled; None for
        what is free here. Its seconds are those of a usual machine; `at` gives others.

        Raises OptionError for a budget that is too small, with the smallest that does.
        """
        half = self._encoder if direction == "encode" else self._decoder
        if half is None:
            raise VaekitError(f"{self.name} has no {direction}r")
        side = self.family.downscale
        width, height = (-(-length // side) * side for length in size)
        ration = (
            self._encoding((batch, height, width), 4 * 3 * batch * height * width, memory, None)
            if direction == "encode"
            else self._decoding(batch, size, output, memory, None)
        )
        inside = (height, width) if direction == "encode" else half.source_size(height, width)
        return half.forecast((batch, *inside), replace(ration, disk=None if disk is None else parse(disk)))

    def calibrate(self, direction: Literal["encode", "decode"] = "decode") -> Rates:
        """What this machine does in a second for this VAE, for `Forecast.at`; takes about two of them."""
        half = self._encoder if direction == "encode" else self._decoder
        if half is None:
            raise VaekitError(f"{self.name} has no {direction}r")
        return calibrate(half.line, half.dtype, half.device)

    @property
    def _beside_pictures(self) -> bool:
        """Whether it runs in the memory that pictures lie in, which is the machine's."""
        return self.placement.device.type == "cpu"

    def _encoding(self, shape: tuple[int, int, int], held: int, memory: Memory, progress: Told | None) -> Ration:
        """Moments, their mean and the latents lie there at the end."""
        assert self._encoder is not None
        result = 3 * 4 * shape[0] * math.prod(self._encoder.result_shape(*shape[1:]))
        held = held if self._beside_pictures else 0
        return Ration(settle(memory, self.placement.device), held, result, progress=progress)

    def _decoding(
        self, batch: int, size: tuple[int, int], output: Output | None, memory: Memory, progress: Told | None
    ) -> Ration:
        """output: None where the rows are written away."""
        side = self.family.downscale
        held = 4 * batch * self.family.latent_channels * math.prod(-(-length // side) for length in size)
        result = images.Canvas.bytes(output, batch, size) if output is not None and self._beside_pictures else 0
        return Ration(settle(memory, self.placement.device), held, result, progress=progress)

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

"""The value that travels between encode, sampler, decode and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vaekit.errors import LatentsError
from vaekit.families import Family

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What latents may be stored in; the 8-bit floats have no arithmetic."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of one or several pictures of the same size, in model space.

    tensor: [B, C, h, w], floating point, scaled and shifted as the family's
    samplers see it (standard deviation about 1). size: (width, height) of the
    pictures in pixels; the last row and column of cells may reach beyond it.
    vae: fingerprint of the VAE that encoded them, where known. alpha:
    transparency of the pictures, uint8 [B, 1, height, width], where they had any.

    Raises LatentsError when the parts do not fit together.
    """

    tensor: Tensor
    family: Family
    size: tuple[int, int]
    vae: str | None = None
    alpha: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.tensor.shape)
        if len(shape) != 4 or 0 in shape:
            raise LatentsError(f"latents are [batch, channels, height, width], none of them 0, not {list(shape)}")
        if self.tensor.dtype not in DTYPES:
            raise LatentsError(f"latents are floating point numbers of 16 to 64 bits, not {self.tensor.dtype}")
        if shape[1] != self.family.latent_channels:
            raise LatentsError(
                f"latents of {self.family.name} have {self.family.latent_channels} channels, not {shape[1]} as here"
            )
        cells = tuple(-(-side // self.family.downscale) for side in self.size)
        if cells != (shape[3], shape[2]):
            raise LatentsError(
                f"a picture of {self.size[0]}×{self.size[1]} has latents of {cells[0]}×{cells[1]} "
                f"in {self.family.name}, not {shape[3]}×{shape[2]} as here"
            )
        if self.alpha is not None and tuple(self.alpha.shape) != (shape[0], 1, self.size[1], self.size[0]):
            raise LatentsError(f"alpha {list(self.alpha.shape)} does not fit pictures of {self.size[0]}×{self.size[1]}")
        if self.alpha is not None and self.alpha.dtype != torch.uint8:
            raise LatentsError(f"alpha is uint8, 0 to 255, not {self.alpha.dtype}")

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        b, c, h, w = self.tensor.shape
        return f"<Latents {self.family.name} [{b}, {c}, {h}, {w}] of {self.size[0]}×{self.size[1]} pixels>"

    def __iter__(self) -> Iterator[Latents]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice) -> Latents:
        """The latents of some of the pictures, still with a batch dimension."""
        if isinstance(index, int):
            index = range(len(self))[index]  # IndexError outside of the batch
            part = slice(index, index + 1)
        else:
            part = index
        return replace(self, tensor=self.tensor[part], alpha=None if self.alpha is None else self.alpha[part])

    def save(self, path: str | Path, *, format: str | None = None, scaled: bool = True, force: bool = False) -> None:
        """Write a file; see vaekit.latents.files.write."""
        from vaekit.latents.files import write

        write(self, Path(path), format=format, scaled=scaled, force=force)

    @staticmethod
    def load(path: str | Path, *, family: Family | str | None = None, scaled: bool | None = None) -> Latents:
        """Read a file of any known kind; see vaekit.latents.files.read."""
        from vaekit.latents.files import read

        return read(Path(path), family=family, scaled=scaled)

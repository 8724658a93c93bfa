"""How much smaller latents are than their picture."""

from __future__ import annotations

from dataclasses import dataclass

from vaekit.latents import Latents


@dataclass(frozen=True)
class Shrinkage:
    """A picture of width × height pixels and its latents of columns × rows cells."""

    width: int
    height: int
    columns: int
    rows: int
    channels: int

    @staticmethod
    def of(latents: Latents) -> Shrinkage:
        _, channels, rows, columns = latents.tensor.shape
        return Shrinkage(*latents.size, columns, rows, channels)

    @property
    def picture_numbers(self) -> int:
        return self.width * self.height * 3

    @property
    def latent_numbers(self) -> int:
        return self.columns * self.rows * self.channels

    @property
    def latent_bytes(self) -> int:
        """In half precision, as samplers mostly hold them: 2 bytes a number."""
        return self.latent_numbers * 2

    @property
    def ratio(self) -> float:
        return self.picture_numbers / self.latent_numbers

    def bits_per_pixel(self, size: int) -> float:
        """Of that many bytes, spread over the picture's pixels."""
        return size * 8 / (self.width * self.height)

    def __str__(self) -> str:
        return (
            f"{self.width}×{self.height}×3 → {self.columns}×{self.rows}×{self.channels}: "
            f"{self.picture_numbers:,} → {self.latent_numbers:,} numbers, {self.ratio:.3g}× fewer; "
            f"{self.picture_numbers:,} → {self.latent_bytes:,} bytes in half precision, "
            f"24 → {self.bits_per_pixel(self.latent_bytes):.2f} bits per pixel"
        )

"""How close a picture is to its original."""

from vaekit.quality.metrics import Picture, Quality, ciede2000, measure, psnr, ssim

__all__ = ["Picture", "Quality", "ciede2000", "measure", "psnr", "ssim"]

"""How close a picture is to its original, and VAEs side by side."""

from vaekit.quality.metrics import Picture, Quality, ciede2000, measure, ms_ssim, psnr, ssim

__all__ = ["Picture", "Quality", "ciede2000", "measure", "ms_ssim", "psnr", "ssim"]

"""Winograd's convolution beside the direct one, in float32: python benchmarks/winograd.py

For each pair of channels and side: seconds (the best of five, by turns), and the errors of both (root of
mean square, against float64, results of deviation 0.6) on the uppermost 32 rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.engine.fast import winograd
from vaekit.engine.strips.statistics import as_picture
from vaekit.engine.strips.stores import Scratch

SIZES = ((512, 64), (512, 128), (256, 256), (256, 512), (160, 64), (128, 512), (64, 512), (32, 512))


@torch.inference_mode()
def main() -> None:
    scratch = Scratch(torch.float32, torch.device("cpu"))
    for channels, side in SIZES:
        x = F.silu(torch.randn(side, side, channels))
        weight, out = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5), torch.empty_like(x)
        ordered = weight.contiguous(memory_format=torch.channels_last)

        direct = partial(F.conv2d, as_picture(x), ordered, padding=1)
        quick = partial(convolved, x, weight, out, scratch)
        times = [(seconds(direct), seconds(quick)) for _ in range(5)]
        one, other = (min(column) for column in zip(*times, strict=True))
        exact = F.conv2d(as_picture(x[:33]).double(), weight.double(), padding=1)[0, :, :32]
        plain = F.conv2d(as_picture(x[:33]), ordered, padding=1)[0, :, :32]
        errors = [float((part - exact).square().mean().sqrt()) for part in (plain, out[:32].permute(2, 0, 1))]
        print(
            f"{channels} channels, {side}×{side}: direct {one:.3f} s, Winograd's {other:.3f} s, {one / other:.2f} "
            f"times as fast; errors {errors[0]:.1e} and {errors[1]:.1e}"
        )


def convolved(x: Tensor, weight: Tensor, out: Tensor, scratch: Scratch) -> None:
    winograd.convolve(x, winograd.weights_at_points(weight), None, out, scratch.take)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

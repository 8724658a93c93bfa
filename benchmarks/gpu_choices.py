"""What fast.gpu has to choose between, measured on this GPU; one command: python benchmarks/gpu_choices.py

Enlargement folded into one transposed convolution, or into four 2×2 kernels of one convolution whose result is
rearranged; GroupNorm and SiLU by Triton or by PyTorch; the ways of attention with heads as wide as the network.
Median milliseconds of each, at the widths of Stable Diffusion's decoder, for pictures of 1024×1024.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vaekit.bench.peers import half_precision
from vaekit.bench.timing import timed
from vaekit.engine.fast.folding import enlarge, fold, quarters
from vaekit.engine.fast.norms import Norms, PlainNorms, norms

GPU = torch.device("cuda")
ROUNDS = 20
ENLARGED = ((512, 128), (512, 256), (256, 512))
"""Channels, and the side before it."""
NORMED = ((512, 128), (512, 256), (256, 512), (128, 1024))
CELLS, WIDTH = 128 * 128, 512
ATTENDING = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def by_corners(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """x: [B, C, h, w] -> [B, out, 2h, 2w], with zeros beyond the edges.

    kernels: [4 · out, C, 2, 2], of the four pixels around each corner between cells.
    """
    around = F.pixel_shuffle(F.conv2d(x, kernels, bias, padding=1), 2)
    return around[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)


def corners(weight: Tensor) -> Tensor:
    """weight: [out, C, 3, 3] -> the kernels of `by_corners`.

    The last pixel of the cell above a corner comes first there, and the first one of the cell below it last.
    """
    return torch.stack(list(quarters(weight))[::-1], 1).flatten(0, 1)


def milliseconds(run: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """Median, or why there is none."""
    try:
        for _ in range(3):
            timed(run, x)
        return f"{1000 * statistics.median(timed(run, x) for _ in range(ROUNDS)):9.3f} ms"
    except RuntimeError as error:
        return f"   no: {str(error).strip().splitlines()[0][:80]}"


def enlargement(dtype: torch.dtype) -> None:
    for channels, side in ENLARGED:
        x, conv = picture(channels, side, dtype), nn.Conv2d(channels, channels, 3, device=GPU, dtype=dtype)
        weight, bias = conv.weight.detach(), conv.bias
        folded, four = (last(kernel) for kernel in (fold(weight), corners(weight)))
        repeated = None if bias is None else bias.detach().repeat_interleave(4)
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "transposed": lambda x, folded=folded, bias=bias: enlarge(x, folded, bias, "zeros"),
            "corners": lambda x, four=four, bias=repeated: by_corners(x, four, bias),
            "plain": lambda x, conv=conv: F.conv2d(
                F.interpolate(x, scale_factor=2.0), conv.weight, conv.bias, padding=1
            ),
        }
        for benchmark in (False, True):
            torch.backends.cudnn.benchmark = benchmark
            for name, way in ways.items():
                print(f"{channels} × {side}², {name:<11} cudnn.benchmark={benchmark!s:<6}{milliseconds(way, x)}")


def normalisation(dtype: torch.dtype) -> None:
    for channels, side in NORMED:
        x, norm = picture(channels, side, dtype), nn.GroupNorm(32, channels, device=GPU, dtype=dtype)
        ways = {"chosen here": passes(norms(GPU), norm), "two passes, PyTorch": passes(PlainNorms(), norm)}
        ways["nn.GroupNorm"] = lambda x, norm=norm: F.silu(norm(x))
        for name, way in ways.items():
            print(f"{channels} × {side}², {name:<20}{milliseconds(way, x)}")


def passes(kind: Norms, norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
    return lambda x: kind.apply(x, kind.settle(kind.gather(x), norm), "silu", over=False)


def attention(dtype: torch.dtype) -> None:
    x = torch.randn(1, 1, CELLS, WIDTH, device=GPU, dtype=dtype)

    def by(backend: SDPBackend) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(x, x, x)

        return run

    for backend in ATTENDING:
        print(f"{backend.name:<22}{milliseconds(by(backend), x)}")


def picture(channels: int, side: int, dtype: torch.dtype) -> Tensor:
    return last(torch.randn(1, channels, side, side, device=GPU, dtype=dtype))


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    dtype = half_precision(GPU)
    print(torch.cuda.get_device_name(GPU), dtype)
    for measure in (enlargement, normalisation, attention):
        print(f"\n{measure.__name__}")
        measure(dtype)


if __name__ == "__main__":
    main()

"""Attention by our own loop beside PyTorch's: python benchmarks/attention.py

One head of 512 channels, as the full-size network has it, over all cells of pictures of 512 and 1024 pixels
squared. Seconds (the best of three, by turns), and the errors of both (root of mean square, against float64, of the
first 64 cells).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from winograd import seconds

from vaekit.engine.fast import attention
from vaekit.engine.strips.task import KEYS_AT_ONCE

CHANNELS = 512


@torch.inference_mode()
def main() -> None:
    for side in (64, 128):
        for dtype in (torch.float32, torch.bfloat16):
            if not attention.available(torch.device("cpu"), dtype, CHANNELS):
                print(f"{dtype}: PyTorch's is taken here")
                continue
            queries, keys, values = (torch.randn(side * side, CHANNELS).to(dtype) for _ in range(3))
            plain = partial(F.scaled_dot_product_attention, *(one[None, None] for one in (queries, keys, values)))
            own = partial(attended, queries, keys, values)
            times = [(seconds(plain), seconds(own)) for _ in range(3)]
            one, other = (min(column) for column in zip(*times, strict=True))
            shares = torch.softmax(queries[:64].double() @ keys.double().T / CHANNELS**0.5, 1)
            exact = shares @ values.double()
            errors = [float((part[:64] - exact).square().mean().sqrt()) for part in (plain()[0, 0], own().to(dtype))]
            print(
                f"{side}×{side} cells, {dtype}: PyTorch's {one:.3f} s, ours {other:.3f} s, {one / other:.2f} times as "
                f"fast; errors {errors[0]:.1e} and {errors[1]:.1e}"
            )


def attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    blocks = zip(torch.split(keys, KEYS_AT_ONCE), torch.split(values, KEYS_AT_ONCE), strict=True)
    return attention.attend(queries, blocks)


if __name__ == "__main__":
    main()

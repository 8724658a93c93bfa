"""Exact attention of some queries over all keys, in float32 or pairs of bfloat16, by loops of our own.

As strips' `attention`, with the running maximum and sum of Milakov & Gimelshein
2018 (arXiv:1805.02867); some queries and keys at a time, whose scores stay in the
cache, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135). Sums are in
float32; of bfloat16 the shares are rounded to it before they are multiplied.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.engine.fast import processor
from vaekit.engine.fast.threads import by_all_threads
from vaekit.engine.strips.line import LANES, TILES
from vaekit.engine.strips.task import KEYS_AT_ONCE

if TYPE_CHECKING:
    from vaekit.engine.fast.scores import Kernels

QUERIES = 8 * TILES
"""That a thread looks at together."""


def available(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether it can be had, and is quicker: in bfloat16 where the processor multiplies pairs of it, but not tiles, as
    PyTorch does."""
    pairs = processor.multiplies_pairs() and not processor.multiplies_tiles()
    kind = dtype == torch.float32 or (dtype == torch.bfloat16 and pairs)
    return device.type == "cpu" and kind and channels % LANES == 0 and importlib.util.find_spec("llvmlite") is not None


def attend(queries: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """queries: [n, c]; blocks: pairs of keys and values, [m, c] each, of one dtype, m at most KEYS_AT_ONCE -> [n, c] in
    float32."""
    from vaekit.engine.fast.scores import TOGETHER

    kernels = _kernels(queries.dtype)
    count, channels = queries.shape
    rows = -(-count // TILES) * TILES
    asked = _as_words(F.pad(queries, (0, 0, 0, rows - count)) if rows > count else queries.contiguous())
    gathered, highest = torch.zeros(rows, channels), torch.full((rows,), -math.inf)
    total, scale = torch.zeros(rows, LANES), torch.tensor([math.log2(math.e) / math.sqrt(channels)])
    threads, depth = torch.get_num_threads(), asked.shape[1]
    at_once = min(QUERIES, -(-rows // (threads * TILES)) * TILES)
    space = torch.empty(threads * 2 * at_once * TOGETHER)
    panels, ordered = queries.new_empty(2, KEYS_AT_ONCE, channels)
    for keys, values in blocks:
        known, beyond = keys.shape[0], (0, 0, 0, -keys.shape[0] % TOGETHER)
        keys, values = (_as_words(F.pad(one, beyond) if beyond[3] else one) for one in (keys, values))
        steps, given = (keys.stride(0), values.stride(0)), (keys, values, panels, ordered)
        by_all_threads(kernels.arrange, known, depth, channels, *steps, *map(Tensor.data_ptr, given))
        arrays = (scale, asked, panels, ordered, gathered, highest, total, space)
        by_all_threads(kernels.gather, rows, at_once, known, depth, channels, *map(Tensor.data_ptr, arrays))
    return gathered[:count].div_(total[:count].sum(1, keepdim=True))


def _as_words(rows: Tensor) -> Tensor:
    """Rows of 32 bits: numbers of float32, or pairs of bfloat16."""
    return rows.view(torch.int32)


@cache
def _kernels(dtype: torch.dtype) -> Kernels:
    from vaekit.engine.fast import scores

    return scores.compiled(pairs=dtype == torch.bfloat16)

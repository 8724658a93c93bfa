"""Exact attention of some queries over all keys, in float32 or pairs of bfloat16, by a loop of our own.

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

if TYPE_CHECKING:
    from vaekit.engine.fast.scores import Kernel

QUERIES = 8 * TILES
"""That a thread looks at together."""


def available(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether it can be had, and is quicker: in bfloat16 where the processor multiplies pairs of it, but not tiles, as
    PyTorch does."""
    pairs = processor.multiplies_pairs() and not processor.multiplies_tiles()
    kind = dtype == torch.float32 or (dtype == torch.bfloat16 and pairs)
    return device.type == "cpu" and kind and channels % LANES == 0 and importlib.util.find_spec("llvmlite") is not None


def attend(queries: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """queries: [n, c]; blocks: pairs of keys and values, [m, c] each, all of one dtype -> [n, c] in float32."""
    from vaekit.engine.fast.scores import TOGETHER

    count, channels = queries.shape
    rows = -(-count // TILES) * TILES
    asked = _as_words(F.pad(queries, (0, 0, 0, rows - count)) if rows > count else queries)
    gathered, highest = torch.zeros(rows, channels), torch.full((rows,), -math.inf)
    total, scale = torch.zeros(rows, LANES), torch.tensor([math.log2(math.e) / math.sqrt(channels)])
    at_once = min(QUERIES, rows)
    space = torch.empty(torch.get_num_threads() * 2 * at_once * TOGETHER)
    for keys, values in blocks:
        beyond = (0, 0, 0, -keys.shape[0] % TOGETHER)
        arrays = (scale, asked, _panels(F.pad(keys, beyond)), _blocks(F.pad(values, beyond), TOGETHER))
        given = rows, at_once, keys.shape[0], asked.shape[1], channels
        pointers = (one.data_ptr() for one in (*arrays, gathered, highest, total, space))
        by_all_threads(_kernel(queries.dtype).gather, *given, *pointers)
    return gathered[:count].div_(total[:count].sum(1, keepdim=True))


def _as_words(rows: Tensor) -> Tensor:
    """Rows of 32 bits: numbers of float32, or pairs of bfloat16."""
    return rows.contiguous().view(torch.int32)


def _panels(keys: Tensor) -> Tensor:
    """Keys [n, c] -> [n / LANES, words, LANES]."""
    words = _as_words(keys)
    return words.view(-1, LANES, words.shape[1]).transpose(1, 2).contiguous()


def _blocks(values: Tensor, together: int) -> Tensor:
    """Values [n, c] -> [n / together, c / LANES, together, LANES], or pairs [together / 2, LANES, 2]."""
    pair = 4 // values.dtype.itemsize
    parts = values.view(-1, together // pair, pair, values.shape[1] // LANES, LANES)
    return parts.permute(0, 3, 1, 4, 2).contiguous()


@cache
def _kernel(dtype: torch.dtype) -> Kernel:
    from vaekit.engine.fast import scores

    return scores.compiled(pairs=dtype == torch.bfloat16)

"""Exact attention of some queries over all keys, a block of keys at a time.

The running maximum and sum of Milakov & Gimelshein 2018 (arXiv:1805.02867), as
in FlashAttention (Dao et al. 2022, arXiv:2205.14135): no matrix of all cells
with all cells is ever there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def attend(queries: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """queries: [n, c]; blocks: pairs of keys and values, [m, c] each -> [n, c] in float32, in which it computes."""
    queries = queries.float()
    scaled = queries / math.sqrt(queries.shape[1])
    highest = queries.new_full((queries.shape[0], 1), -math.inf)
    total = queries.new_zeros(queries.shape[0], 1)
    gathered = torch.zeros_like(queries)
    for keys, values in blocks:
        scores = scaled @ keys.float().T
        before, highest = highest, torch.maximum(highest, scores.amax(1, keepdim=True))
        shrink = before.sub_(highest).exp_()
        scores.sub_(highest).exp_()
        total.mul_(shrink).add_(scores.sum(1, keepdim=True))
        gathered.mul_(shrink).addmm_(scores, values.float())
    return gathered.div_(total)

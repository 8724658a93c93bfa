"""Repeated sizes as CUDA graphs: launched as a whole, where hundreds of launches would take longer than small kernels.

A graph holds its arrays for as long as it is kept. So a size is captured when it
comes the second time, only the last few are kept, they share their memory, and
whoever counts memory says that none is to be made.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

log = logging.getLogger("vaekit")

Run = Callable[[Tensor], Tensor]
Capture = Callable[[Run, Tensor], Run]
"""Runs once for an input, and gives what repeats exactly that for others of its size and dtype."""

KEPT = 4
"""Sizes whose graphs are kept."""
REMEMBERED = 64
"""Sizes that are known to have come before."""
SHARE = 8
"""A graph may hold one such part of the GPU's memory. Larger runs last so long that launching costs nothing."""

Key = tuple[torch.Size, torch.dtype]


class Graphs:
    """A run that is captured for sizes that come again. Its weights must stay the arrays they are."""

    def __init__(self, run: Run, capture: Capture | None = None):
        """run: [B, C, H, W] to its result, without waiting for the GPU. capture: `Capturing()`, but for tests."""
        self._run = run
        self._capture = Capturing() if capture is None else capture
        self._kept: OrderedDict[Key, Run] = OrderedDict()
        self._seen: OrderedDict[Key, bool] = OrderedDict()
        """Whether a size that came before can be captured."""
        self._lock = threading.Lock()

    def __call__(self, x: Tensor, *, keep: bool = True) -> Tensor:
        """keep: whether memory may be held for the next time. x may be written over."""
        key = (x.shape, x.dtype)
        with self._lock:  # a graph has one input and one output
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key](x)
            if not keep or not self._comes_again(key):
                return self._run(x)
            if not self._captured(key, x):
                return self._run(x)
            return self._kept[key](x)

    def _comes_again(self, key: Key) -> bool:
        again = self._seen.get(key, False)
        self._seen.setdefault(key, True)
        self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return again

    def _captured(self, key: Key, x: Tensor) -> bool:
        try:
            self._kept[key] = self._capture(self._run, x)
        except RuntimeError as error:  # out of memory among them
            self._seen[key] = False
            reason = str(error).strip().partition("\n")[0]
            log.warning("this size is run without a CUDA graph, since none could be made: %.200s", reason)
            return False
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return True


class Capturing:
    """Captures on the input's GPU. Its graphs share memory: each result is copied before another one runs."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run, x: Tensor) -> Run:
        with torch.cuda.device(x.device):
            given = x.clone()
            with _trying_algorithms():
                self._warm_up(run, given)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    result = run(given)

        def replay(x: Tensor) -> Tensor:
            given.copy_(x)
            graph.replay()
            return result.clone()

        return replay

    @staticmethod
    def _warm_up(run: Run, x: Tensor) -> None:
        """On another stream, as a capture does: libraries choose and make ready what no capture may hold."""
        ours, other = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        other.wait_stream(ours)
        with torch.cuda.stream(other):
            run(x.clone())
        ours.wait_stream(other)


@contextmanager
def _trying_algorithms() -> Iterator[None]:
    """cuDNN measures its algorithms for a size that comes again; MIOpen would take minutes for that."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = torch.version.hip is None
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before

"""A compiled function run by all threads at once."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def by_all_threads(kernel: int, *given: int) -> None:
    """By as many as PyTorch uses, and where OpenMP is GNU's, as on Linux, by the same ones: theirs would wait for work
    on the cores that others need."""
    numbers, threads = (ctypes.c_int64 * (2 + len(given)))(0, 0, *given), torch.get_num_threads()
    if (parallel := _openmp()) is not None:
        parallel(kernel, numbers, threads, 0)
        return
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
    others = [_pool().submit(function, ctypes.addressof(numbers)) for _ in range(1, threads)]
    function(ctypes.addressof(numbers))
    for other in others:
        other.result()


@cache
def _openmp() -> Callable[[int, Any, int, int], None] | None:
    """GOMP_parallel(function, its argument, threads, flags) of the library that PyTorch has loaded."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="vaekit")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a child

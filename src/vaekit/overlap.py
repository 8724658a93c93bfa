"""Work in a thread beside the caller's, so that reading, computing and writing overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vaekit.errors import VaekitError

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Results that are made before they are asked for: one of them may take twice its time, and nobody waits."""


def beside(work: Callable[[T], R], items: Iterable[T], *, ahead: int = AHEAD) -> Iterator[R | VaekitError]:
    """work(item) of each in order, in one thread of its own, while the caller is busy with what came before.

    ahead: at most so many results are being made or wait; with 0 each is made when
    it is asked for. `items` are taken in the caller's thread. A VaekitError is given
    in its result's place, any other goes through. Where the caller stops early, by
    Ctrl-C too, what was begun is finished first.
    """
    waiting: deque[Future[R | VaekitError]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="vaekit") as thread:
        for item in items:
            waiting.append(thread.submit(attempt, work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def attempt(work: Callable[[T], R], item: T) -> R | VaekitError:
    """work(item), or the VaekitError that it raised."""
    try:
        return work(item)
    except VaekitError as error:
        return error


def grouped(items: Iterable[T], most: Callable[[T], int], alike: Callable[[T, T], bool]) -> Iterator[list[T]]:
    """Neighbours that are alike, in order; at most so many together as the first of them allows."""
    group: list[T] = []
    for item in items:
        if group and not alike(group[0], item):
            yield group
            group = []
        group.append(item)
        if len(group) >= most(group[0]):
            yield group
            group = []
    if group:
        yield group

"""A fair queue with one worker: who was served longest ago goes first, and nobody can fill it for the others."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from vaekit.errors import VaekitError

T = TypeVar("T")

WAITING = 16
"""How many may wait for their turn."""
REMEMBERED = 1000
"""Clients whose last turn is remembered."""


class Busy(VaekitError):
    """The queue is full."""

    exit_code = 1


@dataclass(frozen=True)
class Client:
    """Who asks: machines take turns, and the programs on a machine, or people behind one proxy, among themselves."""

    machine: str = ""
    program: str = ""


NOBODY = Client()


@dataclass(eq=False)
class _Place:
    client: Client
    number: int
    work: Callable[[], Any]
    future: Future[Any]


class FairQueue:
    """Work of many clients, one piece at a time.

    waiting: how many pieces may wait. When so many do, a client with few waiting still gets in: the one with the most,
    if it has at least two more, loses its newest place.
    """

    def __init__(self, waiting: int = WAITING):
        self.waiting = waiting
        self._places: list[_Place] = []
        self._running = False
        self._closed = False
        self._numbers = itertools.count(1)
        self._served: OrderedDict[str | Client, int] = OrderedDict()
        self._change = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="queue", daemon=True)
        self._worker.start()

    def submit(self, work: Callable[[], T], client: Client = NOBODY) -> Future[T]:
        """Do this in its turn; cancelling what is given frees the place. Raises Busy."""
        future: Future[T] = Future()
        with self._change:
            if self._closed:
                raise Busy("the server is being stopped")
            evicted = self._make_room(client) if self.pending > self.waiting else None
            self._places.append(_Place(client, next(self._numbers), work, future))
            self._change.notify()
        future.add_done_callback(self._free)
        if evicted is not None and evicted.future.set_running_or_notify_cancel():
            evicted.future.set_exception(self._full())
        return future

    @property
    def pending(self) -> int:
        """Under way and waiting."""
        return self._running + len(self._places)

    def close(self) -> None:
        """Take nothing more, drop what waits, and wait for what is under way."""
        with self._change:
            self._closed = True
            dropped, self._places = self._places, []
            self._change.notify()
        for place in dropped:
            place.future.cancel()
        self._worker.join()

    def _full(self) -> Busy:
        return Busy(f"{self.waiting} requests wait already; try again later")

    def _make_room(self, client: Client) -> _Place:
        """Take the newest place from whom has the most. Raises Busy where nobody has two more than this client."""
        machines = Counter(place.client.machine for place in self._places)
        machine, most = machines.most_common(1)[0]
        if most < machines[client.machine] + 2:
            machine = client.machine
        programs = Counter(place.client for place in self._places if place.client.machine == machine)
        if not programs:
            raise self._full()
        greedy, most = programs.most_common(1)[0]
        if machine == client.machine and most < programs[client] + 2:
            raise self._full()
        place = max((place for place in self._places if place.client == greedy), key=lambda place: place.number)
        self._places.remove(place)
        return place

    def _free(self, future: Future[Any]) -> None:
        if future.cancelled():
            with self._change:
                self._places = [place for place in self._places if place.future is not future]

    def _next(self) -> _Place:
        """Of the machine that was served longest ago, there of the program, there the oldest."""
        served = self._served
        place = min(
            self._places,
            key=lambda one: (served.get(one.client.machine, 0), served.get(one.client, 0), one.number),
        )
        self._places.remove(place)
        turn = next(self._numbers)
        for key in (place.client.machine, place.client):
            served[key] = turn
            served.move_to_end(key)
        while len(served) > REMEMBERED:
            served.popitem(last=False)
        return place

    def _work(self) -> None:
        while True:
            with self._change:
                self._running = False
                while not self._places and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                place = self._next()
                self._running = True
            _run(place)


def _run(place: _Place) -> None:
    if not place.future.set_running_or_notify_cancel():
        return
    try:
        result = place.work()
    except BaseException as error:
        place.future.set_exception(error)
    else:
        place.future.set_result(result)

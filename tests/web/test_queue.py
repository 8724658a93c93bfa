"""The queue: one at a time, bounded, and no client's many requests keep another waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit.web.queue import Busy, Client, FairQueue


class Held:
    """A queue whose worker is held up until `go`; `order`: who was served."""

    def __init__(self, waiting: int):
        self.queue = FairQueue(waiting)
        self.order: list[Any] = []
        self._gate, begun = threading.Event(), threading.Event()
        self._first = self.queue.submit(lambda: (begun.set(), self._gate.wait(30)))
        begun.wait(30)

    def ask(self, name: str, machine: str = "", program: str = "") -> Future[None]:
        return self.queue.submit(lambda: self.order.append(name), Client(machine, program))

    def go(self) -> list[Any]:
        self._gate.set()
        for place in list(self.queue._places):
            place.future.exception(30)
        return self.order


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held(16)
    yield held
    held.go()
    held.queue.close()


def test_one_with_many_requests_does_not_keep_another_waiting(held: Held) -> None:
    for number in range(10):
        held.ask(f"many-{number}", "a")
    held.ask("one", "b")
    held.ask("two", "b")
    assert held.go()[:4] == ["many-0", "one", "many-1", "two"]


def test_machines_take_turns_first_and_programs_on_one_among_themselves(held: Held) -> None:
    for number in range(3):
        for program in "xyz":
            held.ask(f"a-{program}{number}", "a", program)
    for number in range(3):
        held.ask(f"b{number}", "b")
    order = held.go()
    assert order[:6] == ["a-x0", "b0", "a-y0", "b1", "a-z0", "b2"]
    assert order[6:] == ["a-x1", "a-y1", "a-z1", "a-x2", "a-y2", "a-z2"]


def test_who_fills_the_queue_loses_the_newest_place_to_who_has_few() -> None:
    held = Held(4)
    greedy = [held.ask(f"greedy-{number}", "a") for number in range(4)]
    with pytest.raises(Busy):
        held.ask("greedy-4", "a")
    held.ask("other", "b")
    with pytest.raises(Busy, match="4 requests wait already"):
        greedy[-1].result(30)
    held.ask("third", "c")
    assert isinstance(greedy[-2].exception(30), Busy)
    with pytest.raises(Busy):
        held.ask("fourth", "c")  # 2, 1 and 1 wait: nobody has two more than this one would
    assert held.queue.pending == 5
    assert held.go() == ["greedy-0", "other", "third", "greedy-1"]
    held.queue.close()


def test_programs_of_one_machine_share_it_in_the_same_way() -> None:
    held = Held(3)
    script = [held.ask(f"script-{number}", "a", "script") for number in range(3)]
    held.ask("page", "a", "page")
    assert isinstance(script[-1].exception(30), Busy)
    assert held.go() == ["script-0", "page", "script-1"]
    held.queue.close()


def test_a_cancelled_place_is_free_at_once_and_never_run(held: Held) -> None:
    places = [held.ask(str(number)) for number in range(16)]
    with pytest.raises(Busy):
        held.ask("more")
    assert places[3].cancel() and held.queue.pending == 16
    held.ask("more")
    assert "3" not in held.go() and held.order[-1] == "more"


def test_work_that_fails_fails_alone(held: Held) -> None:
    failed = held.queue.submit(lambda: 1 // 0)
    after = held.ask("after")
    held.go()
    assert isinstance(failed.exception(30), ZeroDivisionError)
    after.result(30)


def test_closing_waits_for_what_is_under_way_and_drops_the_rest() -> None:
    held = Held(4)
    waiting = held.ask("waiting")
    closing = threading.Thread(target=held.queue.close)
    closing.start()
    while not waiting.cancelled():
        threading.Event().wait(0.01)
    held._gate.set()
    closing.join(30)
    assert held._first.done() and held.order == []
    with pytest.raises(Busy, match="stopped"):
        held.ask("late")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=14))
def test_nobody_is_served_twice_while_another_machine_waits(asked: list[tuple[str, str]]) -> None:
    held = Held(16)
    for number, (machine, program) in enumerate(asked):
        held.queue.submit(lambda who=(machine, program, number): held.order.append(who), Client(machine, program))
    order = held.go()
    held.queue.close()
    assert sorted(who[2] for who in order) == list(range(len(asked)))
    for at, (machine, _, _) in enumerate(order):
        later = {who[0] for who in order[at:]}
        before = [who[0] for who in order[max(0, at - len(later) + 1) : at]]
        assert machine not in before
    for who in set(asked):
        numbers = [number for machine, program, number in order if (machine, program) == who]
        assert numbers == sorted(numbers)  # one's own come in order

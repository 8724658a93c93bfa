"""beside and grouped: order, how far ahead, errors, and what an early end leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.errors import FileError, VaekitError
from vaekit.overlap import beside, grouped


def halve(number: int) -> int:
    if number % 2:
        raise FileError(f"{number} is odd")
    return number // 2


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 99)), st.integers(0, 4))
def test_results_come_in_order_with_errors_in_their_places(numbers: list[int], ahead: int) -> None:
    results = list(beside(halve, numbers, ahead=ahead))
    assert [one if isinstance(one, int) else str(one) for one in results] == [
        number // 2 if number % 2 == 0 else f"{number} is odd" for number in numbers
    ]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_is_taken_than_may_lie_ahead(ahead: int) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    for used, _ in enumerate(beside(lambda number: number, numbers(), ahead=ahead)):
        assert len(taken) <= used + 1 + ahead


def test_the_work_goes_on_while_the_caller_is_busy() -> None:
    begun = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            begun.set()
        return number

    results = beside(work, range(3), ahead=1)
    assert next(results) == 0
    assert begun.wait(10), "the second is to be made while the first is used"


def test_what_was_begun_is_finished_when_the_caller_stops() -> None:
    done: list[int] = []

    def stopping() -> Iterator[int]:
        yield from range(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(beside(done.append, stopping(), ahead=5))
    assert done == [0, 1]


def test_a_fault_that_is_no_error_of_vaekit_goes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        list(beside(lambda number: 1 // number, [1, 0, 1]))


@given(st.lists(st.sampled_from("ab")), st.integers(1, 3))
def test_groups_are_neighbours_that_are_alike_and_no_more_than_allowed(letters: list[str], most: int) -> None:
    groups = list(grouped(letters, lambda _: most, lambda one, other: one == other))
    assert [letter for group in groups for letter in group] == letters
    assert all(len(group) <= most and len(set(group)) == 1 for group in groups)
    assert all(one[0] != other[0] or len(one) == most for one, other in pairwise(groups))


def test_a_full_group_does_not_wait_for_the_next_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VaekitError("asked for too early")

    assert next(grouped(items(), lambda _: 1, lambda *_: True)) == [1]

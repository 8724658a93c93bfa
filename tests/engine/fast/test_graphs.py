"""Sizes that come again are captured, the last few are kept, and nothing is where memory is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaekit.engine.fast import graphs
from vaekit.engine.fast.graphs import Graphs, Run

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Fake:
    """A capture that notes what it is asked for, and how often each is replayed."""

    def __init__(self) -> None:
        self.captured: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []

    def __call__(self, run: Run, x: Tensor) -> Run:
        self.captured.append(tuple(x.shape))

        def replay(x: Tensor) -> Tensor:
            self.replayed.append(tuple(x.shape))
            return run(x)

        return replay


def a_size(side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(side, dtype=dtype).view(1, 1, 1, side)


def doubled(x: Tensor) -> Tensor:
    return x * 2


def test_a_size_is_captured_the_second_time_and_replayed_from_then_on() -> None:
    fake = Fake()
    run = Graphs(doubled, fake)
    for _ in range(4):
        assert torch.equal(run(a_size(3)), 2 * a_size(3))
    assert fake.captured == [(1, 1, 1, 3)] and len(fake.replayed) == 3


def test_dtypes_are_told_apart() -> None:
    fake = Fake()
    run = Graphs(doubled, fake)
    for dtype in (torch.float32, torch.float16, torch.float32, torch.float16):
        assert run(a_size(3, dtype)).dtype == dtype
    assert len(fake.captured) == 2


def test_only_the_last_used_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT", 2)
    fake = Fake()
    run = Graphs(doubled, fake)
    for side in (1, 1, 2, 2, 1, 3, 3):  # 2 is what was not used for longest
        run(a_size(side))
    before = len(fake.captured)
    run(a_size(1)), run(a_size(3))
    assert len(fake.captured) == before == 3
    run(a_size(2))
    assert fake.captured[-1] == (1, 1, 1, 2) and len(fake.captured) == 4


def test_nothing_is_kept_where_memory_is_counted() -> None:
    fake = Fake()
    run = Graphs(doubled, fake)
    for _ in range(3):
        assert torch.equal(run(a_size(3), keep=False), 2 * a_size(3))
    assert fake.captured == []


def test_what_cannot_be_captured_is_told_once_and_run_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def capture(run: Run, x: Tensor) -> Run:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run = Graphs(doubled, capture)
    for _ in range(4):
        assert torch.equal(run(a_size(3)), 2 * a_size(3))
    assert [record.message for record in caplog.records] == [
        "this size is run without a CUDA graph, since none could be made: "
        "CUDA out of memory. Tried to allocate 2.00 GiB."
    ]


@on_a_gpu
def test_a_true_graph_repeats_the_run_for_other_inputs_and_weights() -> None:
    weight = torch.ones(1, device="cuda")
    with torch.inference_mode():
        run = Graphs(lambda x: x * 2 + weight)
        for number in range(4):
            x = torch.full((1, 1, 2, 2), float(number), device="cuda")
            assert torch.equal(run(x), x * 2 + 1)
        weight.fill_(5)
        assert torch.equal(run(x), x * 2 + 5)

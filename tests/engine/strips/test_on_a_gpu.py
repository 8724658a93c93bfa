"""What a GPU's memory is counted as: here with an allocator that counts, there by CUDA's own.

A run in float16 on a CPU takes the ways that a GPU takes, so its arrays are counted in its place.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from conftest import random_state
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vaekit.engine.fast.gpu import WholeOnGPU
from vaekit.engine.fast.norms import Activation, Gathered, PlainNorms, Settled
from vaekit.engine.half import ONE_PIECE_MARGIN, Half, Ration, rows_into, rows_of
from vaekit.engine.strips import budget, running, statistics, stores
from vaekit.engine.strips.budget import Budget
from vaekit.engine.strips.line import Direction
from vaekit.engine.strips.one_piece import one_piece_bytes
from vaekit.engine.strips.planning import Plan, plan, smallest
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig

KL = KLConfig(4, (16, 32, 32), (16, 32, 48), encoder_blocks=1, decoder_blocks=2, norm_groups=8)
NETWORKS: dict[str, NetworkConfig] = {
    "kl": KL,
    "mirrored": replace(KL, padding_mode="reflect"),
    "tiny": TinyConfig(4, 16, (1, 2, 1), (2, 1, 1)),
}
FULL_SIZE = KLConfig(4, (), (128, 256, 512, 512))
GPU = torch.device("cuda")
SMALL = 1 << 12
"""Numbers that are copied to float32 at a time."""
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Counting(TorchDispatchMode):
    """Counts the bytes of arrays that are made and not yet gone, as CUDA's max_memory_allocated does."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: set[int] = set()
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given:
                self._count(one.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._alive:
            return
        self._alive.add(storage._cdata)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())

    def _let_go(self, known: int, count: int) -> None:
        self._alive.discard(known)
        self._now -= count


class LeanNorms(PlainNorms):
    """Those of PyTorch with the memory of those of Triton."""

    def gather(self, x: Tensor, other: Tensor | None = None, bias: Tensor | None = None) -> Gathered:
        if other is not None:
            x += other
        small = x.new_zeros((x.shape[0], 1, x.shape[1]), dtype=torch.float32)
        return Gathered(small, small, x.shape[2] * x.shape[3], x.shape[2] * x.shape[3])

    def apply(self, x: Tensor, settled: Settled, activation: Activation | None, *, over: bool) -> Tensor:
        return x if over else x.clone()


def half(config: NetworkConfig, direction: Direction, device: str = "cpu") -> Half:
    return Half(direction, config, random_state(config), dtype=torch.float16, device=torch.device(device))


def an_input(one: Half, side: int) -> Tensor:
    return torch.randn(1, one.line.steps[0].channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("name", NETWORKS)
def test_one_piece_is_foretold(name: str, direction: Direction) -> None:
    one = half(NETWORKS[name], direction)
    side = 96 if direction == "encode" else 24
    task = replace(one.task(side, side, Ration(Budget(1 << 40, True))), gpu=True)
    whole, x = (
        WholeOnGPU(one.network, one.line, LeanNorms()),
        an_input(one, side).half().to(memory_format=torch.channels_last),
    )
    foretold = one_piece_bytes(task) - task.overhead
    with torch.inference_mode(), Counting() as counting:
        whole(x)
    assert 0.8 * foretold <= counting.peak + x.nbytes and counting.peak <= foretold + 1024  # of a norm's numbers


@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("name", ["kl", "tiny"])
@pytest.mark.parametrize("share", [2, 4])
def test_strips_take_what_their_plan_says(
    name: str, direction: Direction, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "BLOCK", SMALL)
    monkeypatch.setattr(stores, "_empty", lambda shape, dtype, device: torch.empty(shape, dtype=dtype, device=device))
    monkeypatch.delattr(stores.mmap, "MADV_DONTNEED")  # nor has a GPU that
    one = half(NETWORKS[name], direction)
    side = 192 if direction == "encode" else 48
    task = replace(one.task(side, side, Ration(Budget(1 << 40, True))), gpu=True)
    allowed = max(smallest(task), task.overhead + (one_piece_bytes(task) - task.overhead) // share)
    planned = plan(task, allowed)
    assert planned is not None and planned.memory <= allowed
    peak = counted(one, planned, an_input(one, side))
    arrays = planned.memory - task.overhead
    assert 0.7 * arrays <= peak <= arrays + 3 * 4 * SMALL


def counted(one: Half, planned: Plan, x: Tensor) -> int:
    """Bytes at the peak of a run."""
    out, network = torch.empty(one.result_shape(x.shape[2], x.shape[3])), one.network
    source, sink = rows_of(x), rows_into(out.unsqueeze(0))
    with torch.inference_mode(), Counting() as counting:
        running.Runner(
            network,
            planned,
            lambda first, rows: source(0, first, rows),
            lambda first, rows: sink(0, first, rows),
            dtype=one.dtype,
            device=one.device,
            folder=stores.spill_folder(),
        ).run()
    return counting.peak


def test_what_pytorch_keeps_for_itself_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 30)
    assert budget.settle(None, torch.device("cuda")) == Budget((5 + 2 << 30) // 2, False)


@pytest.mark.parametrize(
    "gigabytes, asked, side, held",
    [(80, False, 128, True), (80, True, 128, False), (80, False, 512, False), (2, False, 128, False)],
)
def test_graphs_hold_memory_where_none_was_asked_for_and_there_is_plenty(
    gigabytes: int, asked: bool, side: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, gigabytes << 30))
    one = Half("decode", FULL_SIZE, {name: Tensor() for name in FULL_SIZE.shapes()}, dtype=torch.bfloat16, device=GPU)
    assert one._may_hold((1, side, side), Ration(Budget(1 << 40, asked))) == held
    assert one._may_hold((1, side, side), None) == (held or asked)


@pytest.fixture(scope="module")
def on_gpu() -> Half:
    one = Half("decode", FULL_SIZE, random_state(FULL_SIZE), dtype=torch.bfloat16, device=GPU)
    with torch.inference_mode():
        one.decode(torch.zeros(1, 4, 8, 8))  # weights and libraries are there from then on
    return one


def gpu_peak(one: Half, ration: Ration) -> int:
    """Bytes at the peak of decoding 1024×1024, beside what was there before."""
    z, out = torch.randn(1, 4, 128, 128), torch.empty(1, 3, 1024, 1024)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    one.run((1, 128, 128), rows_of(z), rows_into(out), ration)
    return torch.cuda.max_memory_allocated() - before


@on_a_gpu
def test_a_gpu_takes_in_one_piece_what_was_foretold(on_gpu: Half) -> None:
    ration = Ration(Budget(1 << 40, True))
    foretold = on_gpu.forecast((1, 128, 128), ration).memory
    assert 0.8 * foretold <= gpu_peak(on_gpu, ration) <= foretold * ONE_PIECE_MARGIN


@on_a_gpu
@pytest.mark.parametrize("share", [2, 4, 8])
def test_a_gpu_stays_within_the_budget_in_strips(on_gpu: Half, share: int) -> None:
    whole = on_gpu.forecast((1, 128, 128), Ration(Budget(1 << 40, True))).memory
    ration = Ration(Budget(whole // share, True))
    assert on_gpu.forecast((1, 128, 128), ration).strips > 1
    assert gpu_peak(on_gpu, ration) <= whole // share

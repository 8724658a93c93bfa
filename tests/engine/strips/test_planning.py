"""Plans: inside their budget, no slower for more memory, as the simulation and the process itself find them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vaekit.engine.strips import one_piece, planning
from vaekit.engine.strips.line import line
from vaekit.engine.strips.simulation import simulated
from vaekit.engine.strips.sweeping import Sweep
from vaekit.engine.strips.task import MIB, Task
from vaekit.networks.config import KLConfig, TinyConfig

SD1 = KLConfig(4, (128, 256, 512, 512), (128, 256, 512, 512), encoder_blocks=2, decoder_blocks=3)
TAESD = TinyConfig(4, 64, (1, 3, 3, 3), (3, 3, 3, 1))
GIB = 2**30
LOADING = 80 * 2**20


def task(height: int, width: int, *, config: KLConfig | TinyConfig = SD1, **more: object) -> Task:
    return Task(line(config, "decode"), height, width, **more)  # type: ignore[arg-type]


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    spare=st.floats(0, 1.5),
    item=st.sampled_from([2, 4]),
    winograd=st.booleans(),
)
@settings(max_examples=16, deadline=None)
def test_a_plan_stays_inside_its_budget_and_simulates_to_what_it_says(
    height: int, width: int, spare: float, item: int, winograd: bool
) -> None:
    more = {"winograd": True, "loading": LOADING} if winograd else {}
    one = task(height, width, item=item, held=height * width * 16, result=height * width * 256, **more)
    least = planning.smallest(one)
    budget = least + spare * (one_piece.one_piece_bytes(one) - least)
    assume(budget >= least)
    plan = planning.plan(one, budget)
    assert plan is not None and plan.memory <= budget
    assert simulated(plan) <= plan.memory * 1.001
    assert simulated(plan) >= 0.7 * plan.memory


@pytest.mark.parametrize("config", [SD1, TAESD])
def test_more_memory_is_never_slower(config: KLConfig | TinyConfig) -> None:
    one = task(128, 128, config=config)
    least = planning.smallest(one)
    seconds = [plan.seconds for share in (1, 1.5, 2, 4, 16) if (plan := planning.plan(one, share * least))]
    assert len(seconds) == 5 and seconds == sorted(seconds, reverse=True)


def test_winograds_convolution_is_taken_where_it_pays_and_fits_with_what_loading_takes() -> None:
    one = task(64, 64, winograd=True, loading=LOADING)
    roomy, tight, loaded = (
        planning.plan(it, budget * MIB)
        for it, budget in ((one, 500), (one, LOADING // MIB + 20), (replace(one, loading=0), 300))
    )
    assert roomy is not None and all(p.task.winograd and p.memory > LOADING for p in roomy.passes)
    assert tight is not None and not any(p.task.winograd for p in tight.passes) and tight.memory > LOADING / 2
    assert loaded is not None and any(p.task.winograd for p in loaded.passes)
    direct = planning.plan(task(64, 64), 500 * MIB)
    assert direct is not None and roomy.seconds < 0.8 * direct.seconds
    assert not any(one.at_points(step) for step in range(len(one.line)) if one.line.steps[step].channels == 3)
    assert not any(replace(one, height=8, width=8).at_points(step) for step in range(len(one.line)))  # too short


def test_less_than_the_smallest_cannot_be() -> None:
    one = task(64, 64)
    least = planning.smallest(one)
    assert planning.plan(one, least) is not None
    assert planning.plan(one, least - 1) is None


def test_no_more_is_spilled_than_the_disk_takes() -> None:
    roomy = planning.plan(task(128, 128), 300 * 2**20)
    assert roomy is not None and roomy.disk > 0
    tight = planning.plan(task(128, 128, disk=roomy.disk // 2), 300 * 2**20)
    assert tight is None or tight.disk <= roomy.disk // 2
    dry = task(128, 128, disk=0)
    plan = planning.plan(dry, 2 * planning.smallest(dry))
    assert plan is not None and plan.spilled == 0
    assert planning.smallest(dry) > planning.smallest(task(128, 128))


def test_4096_squared_fits_into_2_gib() -> None:
    plan = planning.plan(task(512, 512, result=4 * 4096**2), 2 * GIB)
    assert plan is not None and plan.memory <= 2 * GIB
    assert one_piece.one_piece_bytes(task(512, 512)) > 35 * GIB


@pytest.mark.parametrize("side", [4096])
def test_sizes_beyond_a_machine_are_planned_and_simulated(side: int) -> None:
    """32768 pixels squared, written away by rows, in 8 GiB."""
    plan = planning.plan(task(side, side, held=16 * side * side), 8 * GIB)
    assert plan is not None
    assert simulated(plan) <= plan.memory <= 8 * GIB


@given(rows=st.integers(1, 40), height=st.integers(1, 70), target=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_every_row_is_computed_once_and_is_there_when_it_is_read(rows: int, height: int, target: int) -> None:
    chain = line(SD1, "decode")
    redone = frozenset(i for i in range(1, target) if chain.steps[i].kind not in ("keys", "attend"))
    sweep = Sweep(chain, target, redone, height)
    ends = dict.fromkeys((*sweep.read, *sweep.computed), 0)
    for strip in sweep.strips(rows):
        spans = {span.step: span for span in strip.spans}
        for step, span in spans.items():
            assert span.new[0] == ends[step] and span.new[1] >= span.new[0]
            ends[step] = span.new[1]
        for step in sweep.computed:
            new = spans[step].new
            for other in chain.steps[step].reads if new[1] > new[0] else ():
                first, last = chain.steps[step].rows_of(other, new, chain.side(other, height))
                assert spans[other].first <= first and last <= spans[other].new[1]
    assert ends[target] == chain.side(target, height)


CHILD = """
import json, sys, torch, vaekit
vae = vaekit.load("mini", dtype="float32")
z = torch.randn(1, 4, 128, 128)
vae.decode(z[..., :8, :8])
def status(name):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name + ":"))
memory = int(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
vae.decode(z, memory=memory)
print(json.dumps([status("VmHWM") - before, vae.forecast((1024, 1024), memory=memory).memory]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_the_process_stays_inside_the_budget() -> None:
    for budget in (300 << 20, 100 << 20):
        done = subprocess.run([sys.executable, "-c", CHILD, str(budget)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        peak, foretold = json.loads(done.stdout)
        assert peak <= budget
        assert peak > 0.6 * foretold


def test_tiny_networks_are_planned_too() -> None:
    one = task(256, 256, config=TAESD)
    plan = planning.plan(one, one_piece.one_piece_bytes(one) / 4)
    assert plan is not None and plan.seconds < 1.3 * one_piece.one_piece_seconds(one)
    assert planning.smallest(replace(one, item=2)) < planning.smallest(one)


def test_other_rates_change_the_seconds_of_a_plan_and_nothing_else() -> None:
    found = planning.plan(task(128, 128, winograd=True), 300 * MIB)
    assert found is not None and found.at(found.task.rates) == found
    usual = found.task.rates
    twice = replace(
        usual,
        **{name: getattr(usual, name) * 2 for name in ("operations", "at_points", "attended", "moved", "spilled")},
    )
    faster = found.at(replace(twice, weights=usual.weights * 2, call=usual.call / 2))
    assert faster.seconds == pytest.approx(found.seconds / 2)
    assert (faster.places, faster.memory, faster.operations) == (found.places, found.memory, found.operations)


def test_shortcuts_beside_winograds_convolution_are_products_as_fast_as_others() -> None:
    one = task(64, 64, winograd=True)
    step = next(i for i, step in enumerate(one.line.steps) if step.shortcut and one.at_points(i))
    beside = one.line.of_shortcut(step, 64, 64)
    rates = replace(one.rates, at_points=one.rates.at_points / 1e6)
    assert replace(one, rates=rates).seconds(step) == pytest.approx(
        (one.operations(step) - beside) / rates.at_points + beside / rates.operations
    )

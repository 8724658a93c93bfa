"""Many at once, and anything at all: nobody is forgotten, memory stays flat, nothing is a server error."""

from __future__ import annotations

import itertools
import resource
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from vaekit.web.desk import Desk
from vaekit.web.queue import Client

DRAW = {"prompt": "a red apple", "steps": 1, "width": 32, "height": 32, "sampler_name": "Euler"}
CLIENTS, EACH = 20, 10


@dataclass
class Asked:
    """A request in the queue. asked, begun: when, on one clock that counts both."""

    client: Client
    asked: int
    begun: int | None = None


@pytest.fixture
def queued(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Every request that got a place."""
    all_: list[Asked] = []
    clock = itertools.count()
    counting = threading.Lock()
    submit = desk.submit

    def submitting(work: Any, client: Client) -> Any:
        one = Asked(client, -1)

        def begun() -> Any:
            with counting:
                one.begun = next(clock)
            return work()

        with counting:
            future = submit(begun, client)
            one.asked = next(clock)
            all_.append(one)
        return future

    monkeypatch.setattr(desk, "submit", submitting)
    return all_


def overtaken(queued: list[Asked]) -> int:
    """How often, at most, one client was served while another one waited for its next turn."""
    served = sorted((one for one in queued if one.begun is not None), key=lambda one: one.begun or 0)
    last: dict[Client, int] = {}
    most = 0
    for at, one in enumerate(served):
        since = max(one.asked, last.get(one.client, -1))
        last[one.client] = one.begun or 0
        times = Counter(other.client for other in served[:at] if (other.begun or 0) > since)
        most = max(most, *times.values(), 0)
    return most


def test_200_requests_of_20_clients(address: str, desk: Desk, queued: list[Asked]) -> None:
    """Some of whom leave before they are answered, and one of whom sends all that it has at once."""
    memory: list[int] = []

    def ask(http: httpx2.Client, number: int, turn: int) -> Counter[str]:
        told: Counter[str] = Counter()
        patience = 0.05 if (number + turn) % 7 == 0 else 120
        while True:
            try:
                answer = http.post("/sdapi/v1/txt2img", json=DRAW | {"seed": turn}, timeout=patience)
            except httpx2.TimeoutException:
                return told + Counter(left=1)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            told[str(answer.status_code)] += 1
            if answer.status_code != 429:
                return told
            threading.Event().wait(0.2)

    def client(number: int) -> Counter[str]:
        at_once = EACH if number == 0 else 1
        with (
            httpx2.Client(base_url=address, timeout=120, headers={"User-Agent": f"client-{number}"}) as http,
            ThreadPoolExecutor(at_once) as pool,
        ):
            return sum(pool.map(lambda turn: ask(http, number, turn), range(EACH)), Counter())

    with ThreadPoolExecutor(CLIENTS) as pool:
        told = sum(pool.map(client, range(CLIENTS)), Counter())
    assert told["200"] + told["left"] == CLIENTS * EACH and told["200"] >= 150, told
    assert len({one.client for one in queued}) == CLIENTS
    assert overtaken(queued) <= 1  # nobody is served twice while another waits
    for _ in range(200):
        if desk.pending == 0:
            break
        threading.Event().wait(0.1)
    assert desk.pending == 0 and desk.failed == 0 and desk.refused >= told["429"]
    assert memory[-1] - memory[len(memory) // 4] < 100 << 10  # KiB
    assert httpx2.get(f"{address}/readyz").status_code == 200


def test_whatever_is_described_is_no_server_error(
    address: str, app: FastAPI, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    monkeypatch.setattr("vaekit.catalog.search.search", lambda words, **_: [])  # asks nobody
    monkeypatch.setattr("vaekit.catalog.pull.pull", lambda target, **_: desk.outputs)
    monkeypatch.setattr(desk, "draw", _nothing)
    schema = schemathesis.openapi.from_dict(app.openapi())
    skipped = ("/api/v1/events", "/api/v1/fingerprints")
    operations = [one.ok() for one in schema.get_all_operations() if one.ok().path not in skipped]
    assert len(operations) > 40

    for operation in operations:
        cases = operation.as_strategy()

        @given(data=st.data())
        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def holds(data: Any) -> None:
            case = data.draw(cases)  # noqa: B023
            answer = case.call(base_url=address, timeout=30)
            assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text[:300]}"

        holds()


def _nothing(*_: Any, **__: Any) -> Any:
    from vaekit.errors import OptionError

    raise OptionError("not drawn in this test")


def test_the_description_has_an_example_for_every_body(app: FastAPI) -> None:
    described = app.openapi()
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            content = about.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            schema = content["schema"]
            named = schema.get("$ref", "").rpartition("/")[2]
            schema = described["components"]["schemas"].get(named, schema)
            assert schema.get("examples"), f"{method} {path}"

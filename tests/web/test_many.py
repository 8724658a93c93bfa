"""Many at once, and anything at all: nobody is forgotten, memory stays flat, nothing is a server error."""

from __future__ import annotations

import resource
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from vaekit.web.desk import Desk

DRAW = {"prompt": "a red apple", "steps": 1, "width": 32, "height": 32, "sampler_name": "Euler"}
CLIENTS, EACH = 20, 10


def test_200_requests_of_20_clients(address: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of whom leave before they are answered."""
    asked: list[int] = []
    begun: list[int] = []
    submit = desk.submit
    counting = threading.Lock()

    def submitting(work: Any) -> Any:
        with counting:
            number = len(asked)
            future = submit(lambda: (begun.append(number), work())[1])
            asked.append(number)
            return future

    monkeypatch.setattr(desk, "submit", submitting)
    memory: list[int] = []

    def client(number: int) -> Counter[str]:
        told: Counter[str] = Counter()
        with httpx2.Client(base_url=address, timeout=120) as http:
            for turn in range(EACH):
                patience = 0.05 if (number + turn) % 7 == 0 else 120
                while True:
                    try:
                        answer = http.post("/sdapi/v1/txt2img", json=DRAW | {"seed": turn}, timeout=patience)
                    except httpx2.TimeoutException:
                        told["left"] += 1
                        break
                    if answer.status_code != 429:
                        told[str(answer.status_code)] += 1
                        break
                    told["429"] += 1
                    threading.Event().wait(0.2)
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return told

    with ThreadPoolExecutor(CLIENTS) as pool:
        told = sum(pool.map(client, range(CLIENTS)), Counter())
    assert told["200"] + told["left"] == CLIENTS * EACH and told["200"] >= 150, told
    assert begun == sorted(begun)  # first come, first served
    for _ in range(200):
        if desk.pending == 0:
            break
        threading.Event().wait(0.1)
    assert desk.pending == 0 and desk.failed == 0
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

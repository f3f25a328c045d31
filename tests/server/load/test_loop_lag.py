"""No request keeps the event loop from everybody else's for long."""

from __future__ import annotations

import sys
from collections.abc import Generator

import httpx
import pytest

from tests.server.fakes import FakeEngine
from tests.server.hostile_requests import TO_ANY, TO_OPENAI, send_raw
from tests.server.load.loop_lag import MAX_LAG_S, LagWatch, frozen_heap
from tests.server.running_server import RunningServer, run_server


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with frozen_heap(), run_server(FakeEngine()) as running:
        httpx.post(f"{running.url}/v1/completions", json={"prompt": "{warm}"}).raise_for_status()
        httpx.post(
            f"{running.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "{warm}"}]}
        ).raise_for_status()
        yield running


@pytest.mark.parametrize("name", [*TO_ANY, *TO_OPENAI])
def test_a_hostile_request(server: RunningServer, name: str) -> None:
    request = (TO_ANY | TO_OPENAI)[name]()
    lag_s, answer = LagWatch(server.loop).least_s(lambda: send_raw(server.url, request))
    assert lag_s < MAX_LAG_S
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_the_watch_sees_work_in_the_loop_and_work_that_keeps_pythons_lock(server: RunningServer) -> None:
    text = b"1," * 10_000_000

    def work() -> None:
        text.split(b",")

    with LagWatch(server.loop).measure() as in_loop:
        server.loop.call_soon_threadsafe(work)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1.0)  # who asks every 5 ms starves on a busy machine, which is not counted
    try:
        with LagWatch(server.loop).measure() as beside:
            work()
    finally:
        sys.setswitchinterval(interval_s)
    assert in_loop.worst_s > MAX_LAG_S
    assert beside.worst_s > MAX_LAG_S

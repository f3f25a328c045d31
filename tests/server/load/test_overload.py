"""More than fits: refused with a time to come back. Longer than allowed: ended, wherever the request is."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import openai
import pytest

from shoal.core.generation.admission import AdmissionConfig
from shoal.errors import CapacityError, DeadlineExceeded, QueueFull
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec
from shoal.server.generation.metrics import ServerMetrics
from tests.server.fakes import ByteTokenizer, FakeEngine, FakeStats
from tests.server.http.test_probes import samples
from tests.server.running_server import RunningServer, run_server
from tests.server.test_streaming import raw_post, text_of, wait_for_requests

COMPLETIONS = "/v1/completions"
SHORT_S = 1.0
"""A time that is up in any case, since the engine stands still; long enough for it to take the request first, and to
begin with it, on a busy machine."""


def small_engine(*, stall_after: int = 0) -> FakeEngine:
    """Two requests run at once."""
    engine = FakeEngine(stall_after=stall_after)
    engine.base_stats = FakeStats(max_running=2)
    return engine


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_answers_429_and_goes_on(stream: bool) -> None:
    engine = small_engine()
    body = {"prompt": "{abc}", "max_tokens": 2}
    with (
        run_server(engine, admission=AdmissionConfig(max_queue=1)) as running,
        httpx.Client(base_url=running.url, timeout=30) as http,
    ):
        open_calls = [raw_post(running.url, json.dumps(body).encode()) for _ in range(3)]
        wait_for_requests(engine, 3)
        refused = http.post(COMPLETIONS, json={**body, "stream": stream})
        values = samples(http.get("/metrics").text)
        engine.release()
        answers = [sock.makefile("rb").readline() for sock in open_calls]
        assert http.post(COMPLETIONS, json=body).status_code == 200
        for sock in open_calls:
            sock.close()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "1 requests are already waiting" in error["message"]
    assert answers == [b"HTTP/1.1 200 OK\r\n"] * 3
    assert values["shoal:request_refusals_total/queue_full"] == 1


def test_the_official_client_knows_the_answer() -> None:
    engine = small_engine()
    with (
        run_server(engine, admission=AdmissionConfig(max_queue=1)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        waiting = raw_post(running.url, b'{"prompt": "{abc}", "n": 3}')
        wait_for_requests(engine, 3)
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="tiny", prompt="{abc}")
        waiting.close()


def test_room_that_a_client_leaves_is_used_again() -> None:
    async def run() -> None:
        data_plane = plane(small_engine(), max_queue=1)
        spec = GenerationSpec(prompt_ids=(1,), max_tokens=2)
        async with await data_plane.generate([spec, spec, spec]):
            with pytest.raises(QueueFull):
                await data_plane.generate([spec])
        async with await data_plane.generate([spec]):
            pass
        await data_plane.close()

    asyncio.run(run())


def test_a_call_that_the_engine_refuses_takes_no_room() -> None:
    async def run() -> None:
        data_plane = plane(small_engine(), max_queue=1)
        for _ in range(4):
            with pytest.raises(CapacityError, match="never fit"):
                await data_plane.generate([GenerationSpec(prompt_ids=(1,) * 401, max_tokens=2)])
        async with await data_plane.generate([GenerationSpec(prompt_ids=(1,), max_tokens=2)]):
            pass
        await data_plane.close()

    asyncio.run(run())


def test_replicas_that_are_given_up_make_less_room() -> None:
    async def run() -> None:
        engine = small_engine()
        data_plane = plane(engine, max_queue=1)
        spec = GenerationSpec(prompt_ids=(1,), max_tokens=2)
        async with await data_plane.generate([spec, spec]):
            engine.base_stats = FakeStats(max_running=1)
            await data_plane.stats()
            with pytest.raises(QueueFull):
                await data_plane.generate([spec])
        await data_plane.close()

    asyncio.run(run())


def plane(engine: FakeEngine, *, max_queue: int = 1024, request_timeout_s: float | None = None) -> DataPlane:
    """Started in the running loop."""
    data_plane = DataPlane(
        engine,
        ByteTokenizer(),
        metrics=ServerMetrics("tiny"),
        admission=AdmissionConfig(max_queue=max_queue),
        request_timeout_s=request_timeout_s,
        clock=time.monotonic,
    )
    data_plane.start()
    return data_plane


@pytest.mark.parametrize("stream", [False, True])
def test_time_that_is_up_while_waiting_is_a_503(stream: bool) -> None:
    engine = FakeEngine(stall_after=0)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        response = http.post(COMPLETIONS, json={"prompt": "{abc}", "n": 2, "timeout": SHORT_S, "stream": stream})
        assert engine.cancel_seen.wait(30)
        values = samples(http.get("/metrics").text)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert len(engine.cancelled) == 2
    assert values["shoal:request_success_total/abort"] == 2


def test_time_that_is_up_while_computing_is_a_504() -> None:
    engine = FakeEngine(stall_after=1)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        response = http.post(COMPLETIONS, json={"prompt": "{abc}", "timeout": SHORT_S})
        assert engine.cancel_seen.wait(30)
    assert response.status_code == 504
    assert "retry-after" not in response.headers
    assert "not finished within 1 s" in response.json()["error"]["message"]


def test_time_that_is_up_while_streaming_is_an_error_event() -> None:
    engine = FakeEngine(stall_after=2)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        with http.stream("POST", COMPLETIONS, json={"prompt": "{abc}", "stream": True, "timeout": SHORT_S}) as response:
            *texts, error, done = (line for line in response.iter_lines() if line)
        assert engine.cancel_seen.wait(30)
    assert "".join(map(text_of, texts)) == "ab"
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert done == "data: [DONE]"


def test_the_servers_limit_holds_for_who_says_more_or_nothing() -> None:
    async def run() -> None:
        data_plane = plane(FakeEngine(stall_after=0), request_timeout_s=SHORT_S)
        for timeout_s in (None, 1000.0):
            spec = GenerationSpec(prompt_ids=(1,), max_tokens=2)
            async with await data_plane.generate([spec], timeout_s) as generation:
                with pytest.raises(DeadlineExceeded, match="waited for 1 s"):
                    _ = [deltas async for deltas in generation]
        await data_plane.close()

    asyncio.run(run())


def test_a_request_that_is_in_time_is_not_touched(server: RunningServer) -> None:
    response = httpx.post(f"{server.url}{COMPLETIONS}", json={"prompt": "{abc}", "timeout": 60}, timeout=30)
    assert response.json()["choices"][0]["text"] == "abc"


@pytest.mark.parametrize("timeout", [0, -1, "5", 1e9])
def test_a_timeout_that_makes_no_sense(server: RunningServer, timeout: object) -> None:
    response = httpx.post(f"{server.url}{COMPLETIONS}", json={"prompt": "x", "timeout": timeout}, timeout=30)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "timeout"

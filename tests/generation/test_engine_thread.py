"""The engine's thread: all or nothing admission, one wake a turn, cancellation, death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from shoal.core.generation.admission import AdmissionConfig
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.errors import CapacityError, WorkerLost
from shoal.generation.engine_thread import EngineThread
from shoal.generation.output.output_stream import OutputStream
from tests.server.fakes import EOS, FakeEngine, ids


def request(name: str, prompt: str = "hi", max_tokens: int = 50) -> Request:
    return Request(
        request_id=RequestId(name),
        prompt_ids=tuple(ids(prompt)),
        max_tokens=max_tokens,
        stop_token_ids=frozenset({EOS}),
    )


async def drain(stream: OutputStream) -> list[Output]:
    outputs: list[Output] = []
    while stream.open_ids or not outputs:
        outputs += await stream.take()
    return outputs


def with_thread(engine: FakeEngine, body: Callable[[EngineThread], Awaitable[None]]) -> None:
    async def run() -> None:
        thread = EngineThread(engine, AdmissionConfig(), time.monotonic)
        thread.start()
        try:
            await body(thread)
        finally:
            await thread.close()

    asyncio.run(run())
    assert engine.closed


def test_outputs_of_all_requests_come_in_order_and_end_once() -> None:
    async def body(thread: EngineThread) -> None:
        outputs = await drain(await thread.submit([request("a", "{one}"), request("b", "{three}")]))
        for name, text in (("a", "one"), ("b", "three")):
            own = [output for output in outputs if output.request_id == name]
            *tokens, end = own
            assert [token.token_id for token in tokens if isinstance(token, TokenProduced)] == [*ids(text), EOS]
            assert isinstance(end, RequestFinished)
            assert end.reason == "stop"

    with_thread(FakeEngine(), body)


def test_a_refused_request_takes_its_siblings_with_it() -> None:
    engine = FakeEngine(stall_after=0)

    async def body(thread: EngineThread) -> None:
        with pytest.raises(CapacityError, match="never fit"):
            await thread.submit([request("a"), request("b", "x" * 401)])
        assert (await thread.stats()).num_running == 0

    with_thread(engine, body)
    assert engine.cancelled == ["a"]


def test_abandoning_cancels_and_drops_the_rest() -> None:
    engine = FakeEngine(stall_after=1)

    async def body(thread: EngineThread) -> None:
        stream = await thread.submit([request("a"), request("b")])
        await stream.take()
        thread.abandon(stream)
        assert (await thread.stats()).num_running == 0

    with_thread(engine, body)
    assert sorted(engine.cancelled) == ["a", "b"]


def test_a_submitter_that_is_cancelled_leaves_nothing_behind() -> None:
    engine = FakeEngine(stall_after=0)

    async def body(thread: EngineThread) -> None:
        task = asyncio.create_task(thread.submit([request("a")]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await thread.stats()).num_running == 0

    with_thread(engine, body)


def test_death_ends_every_request_and_is_told_once() -> None:
    engine = FakeEngine(stall_after=1)
    deaths: list[str] = []

    async def run() -> None:
        thread = EngineThread(engine, AdmissionConfig(), time.monotonic)
        thread.start(on_death=deaths.append)
        stream = await thread.submit([request("a"), request("b")])
        engine.kill("worker 1 died")
        ends = [output for output in await drain(stream) if isinstance(output, RequestFinished)]
        assert [(end.reason, end.message) for end in ends] == [("error", "worker 1 died")] * 2
        with pytest.raises(WorkerLost, match="worker 1 died"):
            await thread.submit([request("c")])
        await thread.close()

    asyncio.run(run())
    assert deaths == ["worker 1 died"]
    assert engine.closed


def test_a_bug_in_the_engine_is_a_death_too() -> None:
    def broken(request: Request) -> list[int]:
        raise ZeroDivisionError("oops")

    async def body(thread: EngineThread) -> None:
        with pytest.raises(WorkerLost, match="ZeroDivisionError: oops"):
            await thread.submit([request("a")])

    with_thread(FakeEngine(reply=broken), body)


def test_closing_ends_open_requests() -> None:
    async def run() -> None:
        thread = EngineThread(FakeEngine(stall_after=0), AdmissionConfig(), time.monotonic)
        thread.start()
        stream = await thread.submit([request("a")])
        await thread.close()
        await thread.close()
        (end,) = await drain(stream)
        assert isinstance(end, RequestFinished)
        assert end.reason == "error"
        assert "shutting down" in end.message

    asyncio.run(run())


def test_an_idle_engine_is_left_alone() -> None:
    engine = FakeEngine()

    async def body(thread: EngineThread) -> None:
        await drain(await thread.submit([request("a", max_tokens=3)]))
        await thread.stats()
        before = engine.num_turns
        await thread.stats()
        assert engine.num_turns - before <= 2

    with_thread(engine, body)

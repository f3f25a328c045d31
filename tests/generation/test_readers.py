"""Long requests are read in a few threads, and only so many wait for one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shoal.errors import InvalidRequest, QueueFull
from shoal.generation.readers import MAX_WAITING, Readers


@pytest.mark.parametrize("most", [3, MAX_WAITING, 1024])
def test_one_more_than_may_wait_is_refused(most: int) -> None:
    async def fill() -> list[object]:
        readers, gate = Readers(most), threading.Event()
        waiting = [asyncio.ensure_future(readers.run(gate.wait)) for _ in range(most)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await readers.run(gate.wait)
        gate.set()
        results = await asyncio.gather(*waiting)
        results.append(await readers.run(gate.is_set))
        readers.close()
        return results

    assert asyncio.run(fill()) == [True] * (most + 1)


def test_work_of_a_client_that_left_still_counts() -> None:
    """A thread cannot be stopped: whoever calls and leaves, over and over, must not fill the queue without end."""

    async def call_and_leave() -> None:
        readers, gate = Readers(), threading.Event()
        for _ in range(MAX_WAITING):
            call = asyncio.ensure_future(readers.run(gate.wait))
            await asyncio.sleep(0)
            call.cancel()
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await readers.run(gate.wait)
        gate.set()
        readers.close()

    asyncio.run(call_and_leave())


def test_errors_reach_the_caller() -> None:
    def fail() -> None:
        raise InvalidRequest("no")

    async def run() -> None:
        readers = Readers()
        with pytest.raises(InvalidRequest):
            await readers.run(fail)
        readers.close()

    asyncio.run(run())

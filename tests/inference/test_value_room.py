"""Memory that calls hold in order: never more than there is, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from shoal.errors import QueueFull
from shoal.inference.value_room import Holding, ValueRoom


class Holders:
    """Calls that hold room until they are told to end."""

    def __init__(self, room: ValueRoom) -> None:
        self._room = room
        self.holding: list[str] = []
        self.held: dict[str, Holding] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def begin(self, name: str, num_bytes: int) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, num_bytes))
        await self._settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]
        await self._settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        with suppress(asyncio.CancelledError):
            await self.tasks[name]
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _hold(self, name: str, num_bytes: int) -> None:
        async with self._room.held(num_bytes) as self.held[name]:
            self.holding.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.holding.remove(name)


def test_calls_wait_in_order_until_there_is_room() -> None:
    async def run() -> None:
        calls = Holders(ValueRoom(100))
        for name, num_bytes in (("a", 60), ("b", 40), ("large", 500), ("small", 1)):
            await calls.begin(name, num_bytes)
        assert calls.holding == ["a", "b"]
        await calls.end("a")
        assert calls.holding == ["b"], "what is larger than all the room waits for all of it, and keeps its turn"
        await calls.end("b")
        assert calls.holding == ["large"]
        await calls.end("large")
        assert calls.holding == ["small"]
        await calls.end("small")

    asyncio.run(run())


def test_calls_that_are_given_up_hold_nothing() -> None:
    async def run() -> None:
        calls = Holders(ValueRoom(100))
        for name in ("a", "b", "c"):
            await calls.begin(name, 100)
        await calls.cancel("b")
        await calls.cancel("a")
        assert calls.holding == ["c"]
        await calls.end("c")
        await calls.begin("d", 100)
        assert calls.holding == ["d"]
        await calls.end("d")

    asyncio.run(run())


def test_calls_that_grow_wait_until_they_fit_except_the_oldest() -> None:
    async def run() -> None:
        calls = Holders(ValueRoom(100))
        for name in ("a", "b"):
            await calls.begin(name, 40)
        growing = asyncio.create_task(calls.held["b"].grow(40))
        await calls.held["a"].grow(60)
        await calls.begin("new", 1)
        assert not growing.done()
        assert calls.holding == ["a", "b"]
        with pytest.raises(QueueFull):
            await calls.held["b"].grow(300)
        await calls.end("a")
        await growing
        assert calls.holding == ["b", "new"]
        await calls.end("b")
        await calls.end("new")
        await calls.begin("all", 100)
        assert calls.holding == ["all"], "everything was given back"
        await calls.end("all")

    asyncio.run(run())


def test_a_call_that_becomes_the_oldest_goes_on() -> None:
    async def run() -> None:
        calls = Holders(ValueRoom(100))
        for name in ("a", "b"):
            await calls.begin(name, 10)
        growing = asyncio.create_task(calls.held["b"].grow(200))
        await asyncio.sleep(0)
        assert not growing.done()
        await calls.end("a")
        await growing
        await calls.end("b")

    asyncio.run(run())

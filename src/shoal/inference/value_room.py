"""Memory for the values of a chain's calls: pictures and sound, which are many times larger than their files, so that a
server's limit on bodies does not limit them, and what steps make."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from shoal.errors import QueueFull

TOTAL_BYTES = 2 << 30
"""Of all calls of a chain together. A judgment: eight of the largest pictures, or fifty of a phone's camera."""
_FAR_OVER = 4
"""Multiple of the total at which calls end instead of waiting: steps that already run make values all the same."""
_RETRY_AFTER_S = 5.0


class Holding:
    """The memory of one call."""

    def __init__(self, room: ValueRoom, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._room = room

    async def grow(self, num_bytes: int) -> None:
        """Hold more, and wait until the calls together hold no more than they may. The oldest call never waits, so that
        some call always ends. Raises QueueFull if they hold far more already."""
        await self._room.grow(self, num_bytes)


class ValueRoom:
    """Calls hold memory in the order in which they come. Belongs to one event loop."""

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        """`total_bytes`: that calls may hold together; one that needs more holds all of it."""
        self._total_bytes = self._free_bytes = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._holdings: dict[Holding, None] = {}
        """In the order in which they began."""
        self._paused: list[tuple[Holding, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def held(self, num_bytes: int) -> AsyncGenerator[Holding, None]:
        """Hold so many bytes until the block ends, which begins once there is room."""
        needed = min(num_bytes, self._total_bytes)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((needed, turn))
        self._admit()
        holding = Holding(self, needed)
        try:
            await turn
            self._holdings[holding] = None
            yield holding
        finally:
            self._holdings.pop(holding, None)
            if turn.done() and not turn.cancelled():
                self._free_bytes += holding.num_bytes
            else:
                with suppress(ValueError):  # it has lost its place already
                    self._waiting.remove((needed, turn))
            self._admit()

    async def grow(self, holding: Holding, num_bytes: int) -> None:
        """See `Holding.grow`."""
        is_far_over = num_bytes - self._free_bytes > (_FAR_OVER - 1) * self._total_bytes
        if is_far_over and not self._is_oldest(holding):
            raise QueueFull("the values of this chain's calls fill the memory that they may take", _RETRY_AFTER_S)
        holding.num_bytes += num_bytes
        self._free_bytes -= num_bytes
        if self._may_go_on(holding):
            return
        paused = (holding, asyncio.get_running_loop().create_future())
        self._paused.append(paused)
        try:
            await paused[1]
        finally:
            with suppress(ValueError):
                self._paused.remove(paused)

    def _may_go_on(self, holding: Holding) -> bool:
        return self._free_bytes >= 0 or self._is_oldest(holding)

    def _is_oldest(self, holding: Holding) -> bool:
        return next(iter(self._holdings)) is holding

    def _admit(self) -> None:
        """Give those their turn for whom there is room: first calls that have begun."""
        for holding, turn in self._paused:
            if not turn.done() and self._may_go_on(holding):
                turn.set_result(None)
        while self._waiting and self._waiting[0][0] <= self._free_bytes:
            needed, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free_bytes -= needed
                turn.set_result(None)

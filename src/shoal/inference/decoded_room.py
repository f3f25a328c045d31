"""Memory for what calls' files become once they are decoded: pictures and sound are many times larger than their
files, so that a server's limit on bodies does not limit them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

TOTAL_BYTES = 2 << 30
"""Of all calls of a chain together. A judgment: eight of the largest pictures, or fifty of a phone's camera."""


class DecodedRoom:
    """Calls hold memory in the order in which they come. Belongs to one event loop."""

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        """`total_bytes`: that calls may hold together; one that needs more holds all of it."""
        self._total_bytes = self._free_bytes = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def held(self, num_bytes: int) -> AsyncGenerator[None, None]:
        """Hold so many bytes until the block ends, which begins once there is room."""
        needed = min(num_bytes, self._total_bytes)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((needed, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free_bytes += needed
            else:
                with suppress(ValueError):  # it has lost its place already
                    self._waiting.remove((needed, turn))
            self._admit()

    def _admit(self) -> None:
        """Give those their turn for whom there is room."""
        while self._waiting and self._waiting[0][0] <= self._free_bytes:
            needed, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free_bytes -= needed
                turn.set_result(None)

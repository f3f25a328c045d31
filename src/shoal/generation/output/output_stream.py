"""What comes back for one call, between the engine's thread and the task that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shoal.core.sequences.request import Output, RequestFinished, RequestId
from shoal.errors import ShoalError


class OutputStream:
    """What comes back for the requests of one submission, in order, read by one task of the event loop."""

    def __init__(self, request_ids: Sequence[RequestId]) -> None:
        self.open_ids = set(request_ids)
        """requests that have not ended, as far as the loop knows"""
        self.first_token_s: float | None = None
        """when the engine told of the first token, on its thread's clock; None before"""
        self.last_token_s: float | None = None
        """the same of the last"""
        self._pending: list[Output] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: ShoalError | None = None

    async def take(self) -> list[Output]:
        """Everything that came since the last call, at least one output. Not to be called after the last end.

        Raises what `fail` was told, instead of anything that came before it.
        """
        if not self._pending and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        taken, self._pending = self._pending, []
        return taken

    def fail(self, error: ShoalError) -> None:
        """Let the reader have an error next."""
        self._error = error
        self._wake()

    def put(self, output: Output, told_s: float) -> None:
        """Add one output, of which the engine told at `told_s`, and wake the reader."""
        self._pending.append(output)
        if isinstance(output, RequestFinished):
            self.open_ids.discard(output.request_id)
        else:
            self.last_token_s = told_s
            if self.first_token_s is None:
                self.first_token_s = told_s
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

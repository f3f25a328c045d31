"""The outputs of one call on their way from the engine's thread to the task that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shoal.core.sequences.request import Output, RequestFinished, RequestId
from shoal.errors import ShoalError


class OutputStream:
    """The outputs of the requests of one submission, in order, read by one task of the event loop."""

    def __init__(self, request_ids: Sequence[RequestId]) -> None:
        self.open_ids = set(request_ids)
        """Requests that have not ended, as far as the loop knows."""
        self.first_token_s: float | None = None
        """The time of the first token, on the clock of the engine's thread; None before it."""
        self.last_token_s: float | None = None
        """The time of the latest token."""
        self._pending: list[Output] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: ShoalError | None = None

    async def take(self) -> list[Output]:
        """Wait for and return all new outputs, at least one. Must not be called after the last end.

        Raises: the error given to `fail`, instead of returning outputs before it.
        """
        if not self._pending and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        taken, self._pending = self._pending, []
        return taken

    def fail(self, error: ShoalError) -> None:
        """Make the next `take` raise an error."""
        self._error = error
        self._wake()

    def put(self, output: Output, told_s: float) -> None:
        """Add an output, which the engine produced at `told_s`, and wake the reader."""
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

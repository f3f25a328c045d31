"""Work that ends when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


async def run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled at once when the client closes the connection.

    The request's body must have been read.

    Raises:
        ClientGone: the client closed it first.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_closed(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


class DisconnectWatch:
    """Cancels the work inside its block when the client closes the connection, and then raises ClientGone.

    It starts to watch only after a delay, so that shorter work needs no task.
    """

    def __init__(self, receive: Receive, after_s: float) -> None:
        """
        Args:
            receive: of the connection; the request's body must have been read.
            after_s: delay before watching.
        """
        self._receive = receive
        self._after_s = after_s
        self._watcher: asyncio.Task[None] | None = None
        self._is_client_gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._worker = task
        self._timer = asyncio.get_running_loop().call_later(self._after_s, self._begin)

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._is_client_gone and kind is asyncio.CancelledError and self._worker.uncancel() == 0:
            raise ClientGone

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(_closed(self._receive))
        self._watcher.add_done_callback(self._end)

    def _end(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled():
            self._is_client_gone = True
            self._worker.cancel()


async def _closed(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

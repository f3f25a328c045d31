"""The event loop behind `shoal.LLM`: a thread in which the data plane lives, called from any other."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from shoal.errors import ModelClosed, ShuttingDown
from shoal.generation.data_plane import DataPlane
from shoal.launch.loaded_model import LoadedModel

T = TypeVar("T")

_CLOSED = "this LLM is closed: create another one"


class LoopThread:
    """Owns a loaded model and its data plane from `start` to `close`. Thread-safe.

    Knows nothing of the `LLM` before it, so that a forgotten one can be collected and closed.
    """

    def __init__(self, loaded: LoadedModel, data_plane: DataPlane) -> None:
        """
        Args:
            loaded: closed at the end.
            data_plane: over its engine, not started.
        """
        self._loaded = loaded
        self._data_plane = data_plane
        self._started = threading.Event()
        self._closing = threading.Lock()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=asyncio.run, args=(self._live(),), name="shoal-llm", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, waited for in this thread; an interruption cancels it.

        Raises:
            ModelClosed: the model was closed, before or meanwhile.
        """
        future = self._submit(work)
        try:
            return future.result()
        except (ShuttingDown, concurrent.futures.CancelledError):
            if self._is_closed:
                raise ModelClosed(_CLOSED) from None
            raise
        finally:
            future.cancel()

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, awaited in any other event loop; cancelling the wait cancels the work."""
        future = self._submit(work)
        try:
            return await asyncio.wrap_future(future)
        except (ShuttingDown, asyncio.CancelledError) as error:
            if self._is_closed and not (isinstance(error, asyncio.CancelledError) and _is_being_cancelled()):
                raise ModelClosed(_CLOSED) from None
            raise
        finally:
            future.cancel()

    def drop(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it some time, where the loop still runs."""
        try:
            self._submit(work)
        except ModelClosed:
            return

    def close(self) -> None:
        """End every call, stop all workers, and wait until nothing is left of them. Idempotent."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                assert self._loop is not None
                assert self._end is not None
                self._loop.call_soon_threadsafe(self._end.set)
            if threading.current_thread() is not self._thread:  # where the last reference was dropped
                self._thread.join()

    async def _live(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        with self._loaded:
            self._data_plane.start()
            self._started.set()
            try:
                await self._end.wait()
            finally:
                await self._data_plane.close()
                self._data_plane.readers.wait()

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if self._is_closed:
            work.close()
            raise ModelClosed(_CLOSED)
        assert self._loop is not None
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has closed since
            work.close()
            raise ModelClosed(_CLOSED) from None


def _is_being_cancelled() -> bool:
    """Whether somebody wants the task that runs now to end."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())

"""The event loop behind `shoal.LLM` and `shoal.chain`: a thread in which a model lives, called from any other."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from shoal.errors import ModelClosed, ShuttingDown

T = TypeVar("T")


class LoopThread:
    """Owns a model until `close`. Thread-safe.

    Knows nothing of the object before it, so that a forgotten one can be collected and closed.
    """

    def __init__(self, service: Callable[[], AbstractAsyncContextManager[object]], name: str) -> None:
        """Enter the service in the thread's loop, and wait until that is done.

        Args:
            service: the model at work, left at the end.
            name: what to call the model in errors.

        Raises what entering it raises.
        """
        self._service = service
        self._closed = f"this {name} is closed: create another one"
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._closing = threading.Lock()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=asyncio.run, args=(self._live(),), name="shoal-loop", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._is_closed = True
            self._thread.join()
            raise self._failure

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, waited for in this thread; an interruption cancels it.

        Raises:
            ModelClosed: the model was closed, before or meanwhile.
        """
        future = self.submit(work)
        try:
            return future.result()
        except (ShuttingDown, concurrent.futures.CancelledError):
            if self._is_closed:
                raise ModelClosed(self._closed) from None
            raise
        finally:
            future.cancel()

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, awaited in any other event loop; cancelling the wait cancels the work."""
        future = self.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except (ShuttingDown, asyncio.CancelledError) as error:
            if self._is_closed and not (isinstance(error, asyncio.CancelledError) and _is_being_cancelled()):
                raise ModelClosed(self._closed) from None
            raise
        finally:
            future.cancel()

    def drop(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it some time, where the loop still runs."""
        try:
            self.submit(work)
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
        try:
            async with self._service():
                self._started.set()
                await self._end.wait()
        except BaseException as error:
            if self._started.is_set():
                raise
            self._failure = error
        finally:
            self._started.set()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Its result, some time; cancelling it cancels the work. Raises ModelClosed."""
        if self._is_closed:
            work.close()
            raise ModelClosed(self._closed)
        assert self._loop is not None
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has closed since
            work.close()
            raise ModelClosed(self._closed) from None


def _is_being_cancelled() -> bool:
    """Whether somebody wants the task that runs now to end."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())

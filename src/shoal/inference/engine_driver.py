"""Drives a model's batch engine from the event loop.

If much must be copied into or out of the workers' memory, the engine is used by a thread instead. Copying releases
Python's lock, so the loop continues meanwhile; small requests avoid the detour to a thread.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal.errors import WorkerLost
from shoal.router.batch_engine import BatchEngine, BatchStats, InferenceRequest, InferenceResult
from shoal.router.graph_executor import Tensors

LARGE_BYTES = 4 << 20
"""The most bytes that the loop copies, in a few milliseconds. A judgment, far above the cost of using a thread."""


class EngineDriver:
    """Drives one batch engine. All methods except `close` must be called in the event loop in which `start` was
    called."""

    def __init__(self, engine: BatchEngine, clock: Callable[[], float]) -> None:
        """
        Args:
            engine: the engine, which only the driver uses from now on.
            clock: the engine's clock, in seconds.
        """
        self._engine = engine
        self._clock = clock
        self.failure: str | None = None
        """Why it can do no more work; None while it can."""
        self.last_output_s: float | None = None
        """The time of the latest result; None before the first."""
        self._futures: dict[str, asyncio.Future[InferenceResult]] = {}
        self._open_bytes = 0
        """Bytes of the inputs of all open requests."""
        self._latest_output_bytes = 0
        """Bytes of the latest result, as an estimate for the next."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shoal-tensors")
        self._in_thread: asyncio.Future[Any] | None = None
        """The work of the thread; None while the loop uses the engine."""
        self._stats_before = self._engine.stats()
        """The engine's counters when the thread took over."""
        self._cancelled: list[str] = []
        """Requests to cancel when the thread is done."""
        self._ids = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_pump_due = False
        self._drained: asyncio.Event | None = None
        self._on_death: Callable[[str], None] | None = None

    @property
    def is_in_service(self) -> bool:
        """Whether it was started and not stopped."""
        return self._loop is not None

    def out_of_service(self) -> WorkerLost:
        """The error of requests while it is not in service."""
        return WorkerLost(self.failure or "the model is not in service")

    def stats(self) -> BatchStats:
        """The engine's present counters."""
        return self._engine.stats() if self._in_thread is None else self._stats_before

    def start(self, on_death: Callable[[str], None]) -> None:
        """Start working in the running loop; `on_death` is called once, with the reason, if all replicas are given
        up."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._watch(self._loop)
        self._pump_soon()

    async def run(self, inputs: Tensors, timeout_s: float | None, call_id: str) -> InferenceResult:
        """Run one request through the engine. The result has outputs.

        Args:
            inputs: inputs that were checked already.
            timeout_s: the most time that it may take; None: no limit.
            call_id: the beginning of its id; empty: the id is only a number.

        Raises:
            ShoalError: the request could not be computed.
        """
        num_bytes = _num_bytes(inputs)
        self._open_bytes += num_bytes
        own_id = str(next(self._ids))  # clients may repeat ids
        request_id = f"{call_id}-{own_id}" if call_id else own_id
        request = InferenceRequest(request_id=request_id, inputs=inputs, timeout_s=timeout_s)
        try:
            result = await (await self._submit(request, is_large=num_bytes > LARGE_BYTES))
        except asyncio.CancelledError:
            self._cancel(request.request_id)
            raise
        finally:
            self._open_bytes -= num_bytes
            self._forget(request.request_id)
        if result.error is not None:
            raise result.error
        self.last_output_s = self._clock()
        return result

    async def drain(self, timeout_s: float) -> None:
        """Wait until all requests have ended, but at most `timeout_s`."""
        if self._futures:
            self._drained = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._drained.wait()
            except TimeoutError:
                pass  # open requests end with an error in `stop`

    def stop(self, reason: str) -> None:
        """Detach it from the loop; open requests end with WorkerLost. `close` may follow. Idempotent."""
        self.failure = self.failure or reason
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._unwatch(self._loop)
            self._loop = None
        for future in self._futures.values():
            if not future.done():
                future.set_exception(WorkerLost(reason))

    def close(self) -> None:
        """Stop the workers, which may take seconds. Callable on any thread, after `stop`."""
        self._thread.submit(self._engine.close).result()  # after its present work
        self._thread.shutdown()

    async def _submit(self, request: InferenceRequest, *, is_large: bool) -> asyncio.Future[InferenceResult]:
        if self._loop is None:
            raise self.out_of_service()
        future = self._futures[request.request_id] = self._loop.create_future()
        while self._in_thread is not None:
            await asyncio.wait((self._in_thread,))
        if future.done():  # the model was stopped meanwhile
            return future
        if is_large:
            adding = self._hand_over(self._loop, lambda: self._engine.add(request))
            await asyncio.wait((adding,))
            adding.result()
        else:
            self._engine.add(request)
        self._pump_soon()
        return future

    def _cancel(self, request_id: str) -> None:
        if self._in_thread is not None:
            self._cancelled.append(request_id)
        else:
            self._engine.cancel(request_id)
            self._pump_soon()

    def _forget(self, request_id: str) -> None:
        self._futures.pop(request_id, None)
        if self._drained is not None and not self._futures:
            self._drained.set()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        for fd in self._engine.filenos():
            loop.add_reader(fd, self._pump)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        for fd in self._engine.filenos():
            loop.remove_reader(fd)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Let the thread use the engine; the loop does not use it until the work is done."""
        self._stats_before = self._engine.stats()
        self._unwatch(loop)
        self._in_thread = loop.run_in_executor(self._thread, work)
        self._in_thread.add_done_callback(self._take_back)
        return self._in_thread

    def _take_back(self, done: asyncio.Future[Any]) -> None:
        done.exception()  # the waiting task raises it, unless its request was cancelled
        self._in_thread = None
        if self._loop is None:
            return
        self._watch(self._loop)
        for request_id in self._cancelled:
            self._engine.cancel(request_id)
            self._pump_soon()
        self._cancelled.clear()
        if self._is_pump_due:
            self._loop.call_soon(self._pump)

    def _pump_soon(self) -> None:
        """Schedule one pump for this iteration of the loop, so that requests that are read together run together."""
        if self._loop is not None and not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        if self._loop is None:
            return
        if self._in_thread is not None:
            self._is_pump_due = True  # when the thread is done
        elif self._open_bytes + len(self._futures) * self._latest_output_bytes > LARGE_BYTES:
            self._hand_over(self._loop, lambda: self._engine.turn(0.0)).add_done_callback(self._end_turn)
        else:
            self._digest(lambda: self._engine.turn(0.0))

    def _end_turn(self, turn: asyncio.Future[list[InferenceResult]]) -> None:
        if self._loop is not None:
            self._digest(turn.result)

    def _digest(self, turn: Callable[[], list[InferenceResult]]) -> None:
        assert self._loop is not None
        try:
            results = turn()
        except WorkerLost as error:
            self._die(str(error))
            return
        for result in results:
            self._latest_output_bytes = _num_bytes(result.outputs)
            future = self._futures.get(result.request_id)
            if future is not None and not future.done():
                future.set_result(result)
        self._set_timer(self._loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake_s = self._engine.next_wake_s()
        self._timer = None if wake_s is None else loop.call_later(max(0.0, wake_s - self._clock()), self._pump)

    def _die(self, reason: str) -> None:
        self.stop(reason)
        if self._on_death is not None:
            self._on_death(reason)


def _num_bytes(tensors: Tensors) -> int:
    """Bytes of tensors; strings count only as pointers, since they have limits of their own."""
    return sum(array.nbytes for array in tensors.values())

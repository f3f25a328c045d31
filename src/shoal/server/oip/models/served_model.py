"""One model in service: its batch engine, driven by the event loop.

While there is much to copy, into the workers' memory and out of it, the engine belongs to a thread instead. Copying
gives Python's lock away, so the loop goes on meanwhile; small requests do without the way to a thread and back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal.arrays import Array
from shoal.core.batching.config import BatchingConfig
from shoal.core.plan.graph import GraphPlan
from shoal.core.story import Story
from shoal.errors import ShoalError, WorkerLost
from shoal.model.graph.sample.empty_batch import empty_outputs, is_empty
from shoal.model.graph.sample.input_check import check_inputs
from shoal.router.batch_engine import BatchEngine, BatchStats, InferenceRequest, InferenceResult
from shoal.router.graph_executor import Tensors
from shoal.router.rows import count_rows
from shoal.server.oip.datatypes import check_datatypes
from shoal.server.oip.models.canary_counts import CanaryCounts
from shoal.server.oip.models.model_files import ModelFile
from shoal.server.oip.models.request_counts import RequestCounts, reason_of
from shoal.server.oip.seams import ServableGraph

LARGE_BYTES = 4 << 20
"""What the loop copies at most: it takes a few milliseconds. A judgment, far above what the way to a thread costs."""


class ServedModel:
    """Everything but `close` belongs to the event loop in which `start` was called."""

    def __init__(
        self,
        file: ModelFile,
        loaded: ServableGraph,
        batching: BatchingConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ModelLoadError where the protocol cannot name a type of the graph's inputs or outputs."""
        check_datatypes((*loaded.plan.inputs, *loaded.plan.outputs))
        self.file = file
        self.batching = batching
        self.counts = RequestCounts()
        self.failure: str | None = None
        """why it can do no more work; None while it can"""
        self._loaded = loaded
        self._clock = clock
        self._engine = BatchEngine(
            loaded.executors,
            loaded.plan.batch,
            batching,
            clock,
            factories=loaded.factories,
            recovery=loaded.recovery,
            model=file.name,
            row_s=loaded.row_s,
            sample={**loaded.defaults, **loaded.sample},
        )
        self.supervisor = loaded.supervise(self._engine, clock)
        """looks after its plan and its machines"""
        self._canaries = CanaryCounts()
        self._futures: dict[str, asyncio.Future[InferenceResult]] = {}
        self._open_bytes = 0
        """of the inputs of all requests that have not ended"""
        self._latest_output_bytes = 0
        """of the latest result: the next is assumed to be as large"""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shoal-tensors")
        self._is_closed = False
        self._in_thread: asyncio.Future[Any] | None = None
        """what the thread does; None while the engine belongs to the loop"""
        self._stats_before = self._engine.stats()
        """the engine's counters when the thread took over"""
        self._cancelled: list[str] = []
        """to be told to the engine when the thread is done"""
        self._ids = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_pump_due = False
        self._drained: asyncio.Event | None = None
        self._last_output_s: float | None = None
        self._on_death: Callable[[str], None] | None = None

    @property
    def plan(self) -> GraphPlan:
        """The split that the graph was loaded with, and its inputs and outputs."""
        return self._loaded.plan

    @property
    def last_output_s(self) -> float | None:
        """The time of the last result, on the clock of `now_s`; None before the first."""
        return self._last_output_s

    @property
    def story(self) -> Story:
        """What has happened to its replicas lately."""
        return self._engine.story

    def now_s(self) -> float:
        """The present time on the model's clock, in seconds."""
        return self._clock()

    def stats(self) -> BatchStats:
        """The batch engine's counters now, without canaries."""
        return self._canaries.left_out_of(self._engine.stats() if self._in_thread is None else self._stats_before)

    def start(self, on_death: Callable[[str], None]) -> None:
        """Begin to serve in the running loop; `on_death` is called once, with the reason, if all workers are lost
        and will not be started again."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._watch(self._loop)
        self._pump_soon()

    async def infer(self, inputs: Tensors, timeout_s: float | None = None, call_id: str = "") -> Mapping[str, Array]:
        """Every output of the graph for these inputs; not to be written into, they may share memory.

        `call_id` is what the request's id in the engine's story begins with; empty: it has a number alone.

        Raises:
            InvalidRequest: wrong inputs, or ONNX Runtime could not run them.
            QueueFull, DeadlineExceeded: not now, or not in `timeout_s`.
            WorkerLost: the model's workers are gone.
        """
        arrival_s = self._clock()
        try:
            checked = self._checked(inputs)
            if is_empty(checked, self.plan.batch):
                outputs = empty_outputs(self.plan.inputs, self.plan.outputs, self.plan.batch, checked)
            else:
                outputs = (await self._run(checked, timeout_s, call_id)).outputs
        except ShoalError as error:
            self.counts.fail(reason_of(error), self._clock() - arrival_s)
            raise
        except asyncio.CancelledError:
            self.counts.fail("CANCELED", self._clock() - arrival_s)
            raise
        self.counts.succeed(self._clock() - arrival_s, time.time())
        return outputs

    async def send_canary(self) -> bool:
        """Run the sample inputs, outside all accounts but `last_output_s`. Raises ShoalError."""
        result = await self._run(self._checked(self._loaded.sample), None)
        self._canaries.add(result, count_rows(self._loaded.sample, self.plan.batch))
        return True

    async def drain(self, timeout_s: float) -> None:
        """Wait until every request has ended, `timeout_s` at most."""
        if self._futures:
            self._drained = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._drained.wait()
            except TimeoutError:
                pass  # what is left ends with an error in `stop`

    def stop(self, reason: str) -> None:
        """Take it off the loop; requests that are still open end with WorkerLost. `close` may follow. Idempotent."""
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
        """Stop the workers, which may take seconds; on any thread, after `stop`. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self.supervisor.close()
            self._thread.submit(self._engine.close).result()  # after what it still does
            self._thread.shutdown()
            self._loaded.close()

    async def _run(self, inputs: Tensors, timeout_s: float | None, call_id: str = "") -> InferenceResult:
        """One request through the engine; its result has outputs. Raises ShoalError."""
        num_bytes = _num_bytes(inputs)
        self._open_bytes += num_bytes
        own_id = str(next(self._ids))  # clients may say the same twice
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
        self._last_output_s = self._clock()
        return result

    def _checked(self, inputs: Tensors) -> Tensors:
        if self._loop is None:
            raise WorkerLost(self.failure or "the model is not in service")
        defaults = self._loaded.defaults
        return check_inputs(self.plan.inputs, inputs, defaults=defaults, batch=self.plan.batch, convert=False)

    async def _submit(self, request: InferenceRequest, *, is_large: bool) -> asyncio.Future[InferenceResult]:
        if self._loop is None:
            raise WorkerLost(self.failure or "the model is not in service")
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
        """Let the thread work on the engine, which the loop leaves alone until it is done."""
        self._stats_before = self._engine.stats()
        self._unwatch(loop)
        self._in_thread = loop.run_in_executor(self._thread, work)
        self._in_thread.add_done_callback(self._take_back)
        return self._in_thread

    def _take_back(self, done: asyncio.Future[Any]) -> None:
        done.exception()  # whoever waits for it raises it; a request that was cancelled does not
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
        """Once for everything that this iteration of the loop brings, so that requests read together run together."""
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
    """Of tensors of numbers; strings count as their pointers, and have bounds of their own."""
    return sum(array.nbytes for array in tensors.values())

"""One model in service: its batch engine, driven by the event loop without a thread of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping

from shoal.core.batching.config import BatchingConfig
from shoal.core.graph_plan import GraphPlan
from shoal.errors import ShoalError, WorkerLost
from shoal.model.graph.empty_batch import empty_outputs, is_empty
from shoal.model.graph.input_check import check_inputs
from shoal.router.batch_engine import BatchEngine, BatchStats, InferenceRequest, InferenceResult
from shoal.router.graph_executor import Array, Tensors
from shoal.router.rows import count_rows
from shoal.server.oip.canary_counts import CanaryCounts
from shoal.server.oip.datatypes import check_datatypes
from shoal.server.oip.model_files import ModelFile
from shoal.server.oip.request_counts import RequestCounts, reason_of
from shoal.server.oip.seams import LoadedGraph


class ServedModel:
    """Everything but `close` belongs to the event loop in which `start` was called."""

    def __init__(
        self,
        file: ModelFile,
        loaded: LoadedGraph,
        batching: BatchingConfig,
        clock: Callable[[], float] = time.monotonic,
        *,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """`report` is told what becomes of workers, a line each.

        Raises ModelLoadError where the protocol cannot name a type of the graph's inputs or outputs.
        """
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
            recipes=loaded.recipes,
            recovery=loaded.recovery,
            report=report,
        )
        self._canaries = CanaryCounts()
        self._futures: dict[str, asyncio.Future[InferenceResult]] = {}
        self._ids = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_pump_due = False
        self._drained: asyncio.Event | None = None
        self._last_output_s: float | None = None
        self._on_death: Callable[[str], None] | None = None

    @property
    def plan(self) -> GraphPlan:
        """How the graph is split, and its inputs and outputs."""
        return self._loaded.plan

    @property
    def last_output_s(self) -> float | None:
        """When the last result came; None before the first."""
        return self._last_output_s

    def now_s(self) -> float:
        """The model's clock."""
        return self._clock()

    def stats(self) -> BatchStats:
        """The batch engine's counters now, without canaries."""
        return self._canaries.left_out_of(self._engine.stats())

    def start(self, on_death: Callable[[str], None]) -> None:
        """Begin to serve in the running loop; `on_death` is called once, with the reason, if all workers are lost
        and will not be started again."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        for fd in self._engine.filenos():
            self._loop.add_reader(fd, self._pump)
        self._pump_soon()

    async def infer(self, inputs: Tensors, timeout_s: float | None = None) -> Mapping[str, Array]:
        """Every output of the graph for these inputs; not to be written into, they may share memory.

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
                outputs = (await self._run(checked, timeout_s)).outputs
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
            for fd in self._engine.filenos():
                self._loop.remove_reader(fd)
            self._loop = None
        for future in self._futures.values():
            if not future.done():
                future.set_exception(WorkerLost(reason))

    def close(self) -> None:
        """Stop the workers, which may take seconds; on any thread, after `stop`. Idempotent."""
        self._engine.close()
        self._loaded.close()

    async def _run(self, inputs: Tensors, timeout_s: float | None) -> InferenceResult:
        """One request through the engine; its result has outputs. Raises ShoalError."""
        request_id, future = self._submit(inputs, timeout_s)
        try:
            result = await future
        except asyncio.CancelledError:
            self._engine.cancel(request_id)
            self._pump_soon()
            raise
        finally:
            self._forget(request_id)
        if result.error is not None:
            raise result.error
        self._last_output_s = self._clock()
        return result

    def _checked(self, inputs: Tensors) -> Tensors:
        if self._loop is None:
            raise WorkerLost(self.failure or "the model is not in service")
        return check_inputs(self.plan.inputs, inputs, batch=self.plan.batch, convert=False)

    def _submit(self, inputs: Tensors, timeout_s: float | None) -> tuple[str, asyncio.Future[InferenceResult]]:
        if self._loop is None:
            raise WorkerLost(self.failure or "the model is not in service")
        request_id = str(next(self._ids))
        self._engine.add(InferenceRequest(request_id=request_id, inputs=inputs, timeout_s=timeout_s))
        future = self._futures[request_id] = self._loop.create_future()
        self._pump_soon()
        return request_id, future

    def _forget(self, request_id: str) -> None:
        del self._futures[request_id]
        if self._drained is not None and not self._futures:
            self._drained.set()

    def _pump_soon(self) -> None:
        """Once for everything that this iteration of the loop brings, so that requests read together run together."""
        if self._loop is not None and not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        if self._loop is None:
            return
        try:
            results = self._engine.turn(0.0)
        except WorkerLost as error:
            self._die(str(error))
            return
        for result in results:
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

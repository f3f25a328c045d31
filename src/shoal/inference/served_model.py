"""One model in service: its batch engine, driven by the event loop, and the counts of its requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from shoal.arrays import Array
from shoal.core.batching.config import BatchingConfig
from shoal.core.plan.graph import GraphPlan
from shoal.core.story import Story
from shoal.inference.canary_counts import CanaryCounts
from shoal.inference.engine_driver import EngineDriver
from shoal.inference.model_files import ModelFile
from shoal.inference.request_counts import RequestCounts
from shoal.inference.seams import ServableGraph
from shoal.model.graph.sample.empty_batch import empty_outputs, is_empty
from shoal.model.graph.sample.input_check import check_inputs
from shoal.router.batch_engine import BatchEngine, BatchStats
from shoal.router.graph_executor import Tensors
from shoal.router.rows import count_rows


class ServedModel:
    """Serves one graph. All methods except `close` must be called in the event loop in which `start` was called."""

    def __init__(
        self,
        file: ModelFile,
        loaded: ServableGraph,
        batching: BatchingConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            file: the graph's file.
            loaded: the graph with its workers, which is closed with this object.
            batching: the limits of batches.
            clock: gives monotonic seconds.
        """
        self.file = file
        self.batching = batching
        self.counts = RequestCounts()
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
        """Supervises its plan and its machines."""
        self._driver = EngineDriver(self._engine, clock)
        self._canaries = CanaryCounts()
        self._is_closed = False

    @property
    def failure(self) -> str | None:
        """Why it can do no more work; None while it can."""
        return self._driver.failure

    @property
    def plan(self) -> GraphPlan:
        """The split that the graph was loaded with, and its inputs and outputs."""
        return self._loaded.plan

    @property
    def last_output_s(self) -> float | None:
        """The time of the latest result, on the clock of `now_s`; None before the first."""
        return self._driver.last_output_s

    @property
    def story(self) -> Story:
        """The story of its replicas."""
        return self._engine.story

    def now_s(self) -> float:
        """The present time on the model's clock, in seconds."""
        return self._clock()

    def stats(self) -> BatchStats:
        """The batch engine's present counters, without canaries."""
        return self._canaries.left_out_of(self._driver.stats())

    def start(self, on_death: Callable[[str], None]) -> None:
        """Start serving in the running loop; `on_death` is called once, with the reason, if all replicas are given
        up."""
        self._driver.start(on_death)

    async def infer(self, inputs: Tensors, timeout_s: float | None = None, call_id: str = "") -> Mapping[str, Array]:
        """Compute all outputs of the graph; they must not be modified, since they may share memory.

        `call_id`: the beginning of the request's id in the engine's story; empty: the id is only a number.

        Raises:
            InvalidRequest: the inputs are invalid, or ONNX Runtime could not run them.
            QueueFull, DeadlineExceeded: too many requests wait, or it was not finished within `timeout_s`.
            WorkerLost: the model's workers are lost.
        """
        with self.counts.counted(self._clock):
            checked = self._checked(inputs)
            if is_empty(checked, self.plan.batch):
                return empty_outputs(self.plan.inputs, self.plan.outputs, self.plan.batch, checked)
            return (await self._driver.run(checked, timeout_s, call_id)).outputs

    async def send_canary(self) -> bool:
        """Run the sample inputs, which count only for `last_output_s`. Raises ShoalError."""
        result = await self._driver.run(self._checked(self._loaded.sample), None, "")
        self._canaries.add(result, count_rows(self._loaded.sample, self.plan.batch))
        return True

    async def drain(self, timeout_s: float) -> None:
        """Wait until all requests have ended, but at most `timeout_s`."""
        await self._driver.drain(timeout_s)

    def stop(self, reason: str) -> None:
        """Detach it from the loop; open requests end with WorkerLost. `close` may follow. Idempotent."""
        self._driver.stop(reason)

    def close(self) -> None:
        """Stop the workers, which may take seconds. Callable on any thread, after `stop`. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self.supervisor.close()
            self._driver.close()
            self._loaded.close()

    def _checked(self, inputs: Tensors) -> Tensors:
        if not self._driver.is_in_service:
            raise self._driver.out_of_service()
        defaults = self._loaded.defaults
        return check_inputs(self.plan.inputs, inputs, defaults=defaults, batch=self.plan.batch, convert=False)

"""A replica of one worker in this very process: `poll` computes."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from shoal.errors import InvalidRequest
from shoal.router.graph_executor import Array, Batch, BatchResult, Tensors


class GraphRunner(Protocol):
    """Something that computes a whole graph."""

    def run(self, tensors: Tensors) -> dict[str, Array]:
        """Every output of the graph. Raises InvalidRequest where these inputs cannot be computed."""
        ...


class InProcessGraphExecutor:
    """Runs the whole graph inline. Implements `router.executor.Executor`."""

    num_stages = 1

    def __init__(self, runner: GraphRunner) -> None:
        self._runner = runner
        self._batches: deque[Batch] = deque()

    def submit(self, work: Batch) -> None:
        """Queue a batch; it is computed by the next `poll`."""
        self._batches.append(work)

    def poll(self) -> list[BatchResult]:
        """Compute the oldest batch, if there is one."""
        if not self._batches:
            return []
        batch = self._batches.popleft()
        started_s = time.perf_counter()
        try:
            outputs, error = self._runner.run(batch.inputs), None
        except InvalidRequest as refusal:
            outputs, error = {}, str(refusal)
        compute_s = time.perf_counter() - started_s
        return [BatchResult(batch_id=batch.batch_id, outputs=outputs, compute_s=(compute_s,), error=error)]

    def filenos(self) -> tuple[int, ...]:
        """None: there is nobody to wait for."""
        return ()

    def fence(self) -> None:
        """Nobody is cut off from anybody."""
        self._batches.clear()

    def kill(self) -> bool:
        """There is no worker to wait for."""
        return True

    def close(self) -> None:
        """Nothing outlives the process's own memory."""
        self._batches.clear()

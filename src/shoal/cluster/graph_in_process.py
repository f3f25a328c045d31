"""A replica of one worker in this very process: `poll` computes."""

from __future__ import annotations

import time
from collections import deque

from shoal.errors import InvalidRequest
from shoal.model.graph.session import GraphStage
from shoal.router.graph_executor import Batch, BatchResult


class InProcessGraphExecutor:
    """Runs the whole graph inline. Implements `router.graph_executor.GraphExecutor`."""

    num_stages = 1

    def __init__(self, stage: GraphStage) -> None:
        self._stage = stage
        self._batches: deque[Batch] = deque()

    def submit(self, batch: Batch) -> None:
        """Queue a batch; it is computed by the next `poll`."""
        self._batches.append(batch)

    def poll(self) -> list[BatchResult]:
        """Compute the oldest batch, if there is one."""
        if not self._batches:
            return []
        batch = self._batches.popleft()
        started_s = time.perf_counter()
        try:
            outputs, error = self._stage.run(batch.inputs), None
        except InvalidRequest as refusal:
            outputs, error = {}, str(refusal)
        compute_s = time.perf_counter() - started_s
        return [BatchResult(batch_id=batch.batch_id, outputs=outputs, compute_s=(compute_s,), error=error)]

    def filenos(self) -> tuple[int, ...]:
        """None: there is nobody to wait for."""
        return ()

    def close(self) -> None:
        """Nothing outlives the process's own memory."""
        self._batches.clear()

"""A whole ONNX graph in this process."""

from __future__ import annotations

import time
from typing import Protocol

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.executor.in_process import InProcessExecutor
from shoal.router.graph_executor import Batch, BatchResult, Tensors


class GraphComputation(Protocol):
    """The computation of a whole graph."""

    def run(self, tensors: Tensors) -> dict[str, Array]:
        """Compute all outputs of the graph. Raises InvalidRequest if these inputs cannot be computed."""
        ...


class InProcessGraphExecutor(InProcessExecutor[Batch, BatchResult]):
    """Computes batches of a whole graph in this process."""

    def __init__(self, runner: GraphComputation) -> None:
        """`runner`: the graph."""
        super().__init__(lambda batch: _compute(runner, batch))


def _compute(runner: GraphComputation, batch: Batch) -> BatchResult:
    started_s = time.perf_counter()
    try:
        outputs, error = runner.run(batch.inputs), None
    except InvalidRequest as refusal:
        outputs, error = {}, str(refusal)
    compute_s = time.perf_counter() - started_s
    return BatchResult(batch_id=batch.batch_id, outputs=outputs, compute_s=(compute_s,), error=error)

"""A replica of a small graph without a model: y = 2 x + s, row by row, and it fails when it is told to."""

from __future__ import annotations

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.router.graph_executor import Batch, BatchResult
from tests.router.fake_replica import FakeReplica

AXES = BatchAxes(inputs={"x": 0, "s": None}, outputs={"y": 0}, rows=None)
BAD = -1.0
"""A batch that holds this value cannot be run."""


class FakeGraphExecutor(FakeReplica[Batch, BatchResult]):
    """A replica that runs batches."""

    def __init__(self, *, answers_by_hand: bool = False, num_stages: int = 1, is_loading: bool = False) -> None:
        super().__init__(answers_by_hand=answers_by_hand, num_stages=num_stages, is_loading=is_loading)
        self.compute_s = (0.5,) * num_stages
        self.sizes: list[int] = []
        """rows of every batch submitted"""

    def submit(self, work: Batch) -> None:
        super().submit(work)
        self.sizes.append(len(work.inputs["x"]))

    def compute(self, work: Batch) -> BatchResult:
        return answer_batch(work, self.compute_s)


def answer_batch(batch: Batch, compute_s: tuple[float, ...]) -> BatchResult:
    x = batch.inputs["x"]
    if (x == BAD).any():
        return BatchResult(batch_id=batch.batch_id, outputs={}, compute_s=compute_s, error="x must not be negative")
    return BatchResult(batch_id=batch.batch_id, outputs={"y": 2 * x + batch.inputs["s"]}, compute_s=compute_s)


def make_inputs(*values: float, s: float = 0.0) -> dict[str, Array]:
    """One row a value."""
    return {"x": np.array(values, np.float32)[:, None], "s": np.array(s, np.float32)}

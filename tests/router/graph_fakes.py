"""A replica of a small graph without a model: y = 2 x + s, row by row, and it fails when it is told to."""

from __future__ import annotations

import os
from collections import deque

import numpy as np

from shoal.core.graph_plan import BatchAxes
from shoal.errors import WorkerLost
from shoal.router.graph_executor import Array, Batch, BatchResult

AXES = BatchAxes(inputs={"x": 0, "s": None}, outputs={"y": 0}, rows=None)
BAD = -1.0
"""A batch that holds this value cannot be run."""


class FakeGraphExecutor:
    """Answers a batch at the next `poll`, or, with `answers_by_hand`, when `answer` is called, as a worker would."""

    def __init__(self, *, answers_by_hand: bool = False, num_stages: int = 1) -> None:
        self.num_stages = num_stages
        self.batches: deque[Batch] = deque()
        self.sizes: list[int] = []
        """rows of every batch submitted"""
        self.num_closed = 0
        self.loses_at_poll = False
        self.loses_at_submit = False
        self._ready: deque[BatchResult] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if answers_by_hand else -1

    def submit(self, batch: Batch) -> None:
        if self.loses_at_submit:
            raise WorkerLost("the fake worker is gone")
        self.batches.append(batch)
        self.sizes.append(len(batch.inputs["x"]))

    def answer(self) -> None:
        """The oldest batch is done. Thread-safe."""
        self._ready.append(answer_batch(self.batches.popleft(), self.num_stages))
        os.eventfd_write(self._fd, 1)

    def poll(self) -> list[BatchResult]:
        if self.loses_at_poll:
            raise WorkerLost("the fake worker is gone")
        if self._fd < 0:
            return [answer_batch(self.batches.popleft(), self.num_stages)] if self.batches else []
        results = list(self._ready)
        self._ready.clear()
        if results:
            os.eventfd_read(self._fd)
        return results

    def lose(self) -> None:
        """The link breaks: the descriptor becomes readable and `poll` raises."""
        self.loses_at_poll = True
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def filenos(self) -> tuple[int, ...]:
        return (self._fd,) if self._fd >= 0 else ()

    def close(self) -> None:
        self.num_closed += 1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def answer_batch(batch: Batch, num_stages: int) -> BatchResult:
    x = batch.inputs["x"]
    compute_s = (0.5,) * num_stages
    if (x == BAD).any():
        return BatchResult(batch_id=batch.batch_id, outputs={}, compute_s=compute_s, error="x must not be negative")
    return BatchResult(batch_id=batch.batch_id, outputs={"y": 2 * x + batch.inputs["s"]}, compute_s=compute_s)


def make_inputs(*values: float, s: float = 0.0) -> dict[str, Array]:
    """One row a value."""
    return {"x": np.array(values, np.float32)[:, None], "s": np.array(s, np.float32)}

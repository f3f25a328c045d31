"""The work of an ONNX graph's replica: batches and their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NewType

import numpy as np

from shoal.arrays import Array
from shoal.core.batching.events import BatchLimits
from shoal.router.executor import Executor, ReplicaFactory

BatchId = NewType("BatchId", int)

Tensors = Mapping[str, Array]
"""Arrays by their names in the graph. Strings are arrays of dtype object with `str` (or `bytes`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One run of the graph."""

    batch_id: BatchId
    """The batch's id, unique within its executor."""
    inputs: Tensors
    """All inputs of the graph, checked against its specs. They must not change until the batch's result arrives."""
    limit_s: float | None = None
    """Seconds after which a worker gives up the batch, so that it can continue with others; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """The result of a Batch."""

    batch_id: BatchId
    outputs: dict[str, np.ndarray[Any, Any]]
    """All outputs of the graph; empty with an `error`. Valid until: `release` is called."""
    compute_s: tuple[float, ...]
    """Seconds that each stage computed, without waiting."""
    error: str | None = None
    """Why ONNX Runtime could not run this batch (for example inconsistent shapes), in one line. The replica
    continues."""
    release: Callable[[], None] | None = None
    """To be called once after the outputs have been read, which lie in memory that a worker waits for. None: the
    outputs belong to the receiver."""

    def take(self) -> dict[str, np.ndarray[Any, Any]]:
        """Copy the outputs if needed and release them."""
        if self.release is None:
            return self.outputs
        owned = {name: np.array(view) for name, view in self.outputs.items()}
        self.release()
        return owned


GraphExecutor = Executor[Batch, BatchResult]
GraphReplicaFactory = ReplicaFactory[Batch, BatchResult, BatchLimits]

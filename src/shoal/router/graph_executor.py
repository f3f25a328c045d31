"""The work of an ONNX graph's replica: a batch and what became of it."""

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
"""Arrays by the name that the graph gives them. Strings are arrays of dtype object that hold `str` (or `bytes`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One run of the graph."""

    batch_id: BatchId
    """unique among the batches of its executor"""
    inputs: Tensors
    """every input of the graph, checked against its specs; must not change until the batch's result has come"""
    limit_s: float | None = None
    """when a worker is to give it up, so that it can go on with others; None: never"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one Batch."""

    batch_id: BatchId
    outputs: dict[str, np.ndarray[Any, Any]]
    """every output of the graph; empty where `error` says why there is none. Valid until: `release` is called"""
    compute_s: tuple[float, ...]
    """seconds spent computing, one per stage (waiting excluded)"""
    error: str | None = None
    """one line: ONNX Runtime could not run this batch (shapes that do not fit each other, say); the replica goes on"""
    release: Callable[[], None] | None = None
    """to be called once when the outputs have been read: they lie in memory that a worker waits for. None where they
    are the receiver's own"""

    def take(self) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs as the receiver's own, released."""
        if self.release is None:
            return self.outputs
        owned = {name: np.array(view) for name, view in self.outputs.items()}
        self.release()
        return owned


GraphExecutor = Executor[Batch, BatchResult]
GraphReplicaFactory = ReplicaFactory[Batch, BatchResult, BatchLimits]

"""The seam between decisions and workers for ONNX graphs: one executor runs the batches of one replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
import numpy.typing as npt

BatchId = NewType("BatchId", int)

Array = npt.NDArray[Any]
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


class GraphExecutor(Protocol):
    """Runs batches on one replica, in the order in which they were submitted.

    Implementations: in-process, local child processes. Nothing above `cluster` knows which.
    """

    @property
    def num_stages(self) -> int:
        """How many batches can usefully be computed at once; one more keeps the first stage from waiting."""
        ...

    def submit(self, batch: Batch) -> None:
        """Hand over one batch. Returns before it is computed. Raises WorkerLost."""
        ...

    def poll(self) -> list[BatchResult]:
        """Finished batches, oldest first, without blocking on a peer (an in-process executor computes one here).

        Raises:
            WorkerLost: a worker of this replica is gone; every batch in flight is lost.
        """
        ...

    def filenos(self) -> tuple[int, ...]:
        """File descriptors that become readable when `poll` has something; empty: `poll` itself does the work."""
        ...

    def kill(self) -> bool:
        """Make every worker end, without waiting for it. Call it again until it says that all of them have ended."""
        ...

    def close(self) -> None:
        """Stop the workers, wait until they have ended, and free everything. Idempotent."""
        ...


class StartingGraphExecutor(GraphExecutor, Protocol):
    """One whose workers may still be loading."""

    @property
    def culprit(self) -> int | None:
        """The worker, stage by stage and rank by rank, that the latest error was about; None: not known."""
        ...

    def poll_loading(self) -> bool:
        """Take in what loading workers say, without blocking; whether all of them are ready for batches.

        Raises:
            WorkerLost: a worker is gone.
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
        """
        ...


class GraphRecipe(Protocol):
    """How the workers of one replica are started."""

    def start(self) -> StartingGraphExecutor:
        """Start them. Returns at once, while they load. Raises ShoalError: it cannot even be begun."""
        ...

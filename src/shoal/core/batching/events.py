"""Events that the batch scheduler of one model takes in, and effects that it returns."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from shoal.core.recovery.config import MAX_LOSSES
from shoal.core.recovery.events import (
    RecoveryEffect,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    Tick,
    WorkersProgressed,
)
from shoal.errors import ShoalError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Contiguous rows of one request; batches consist of parts."""

    request_id: str
    arrival: int
    """The number of its request in the order of arrival: 0, 1, ..."""
    first_row: int
    num_rows: int
    num_losses: int = 0
    """The number of replicas in a row that were lost while they had it."""
    runs_alone: bool = False
    """Whether it runs in a batch of its own, because a batch that it shared with others has failed."""

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of the queue: by the request's arrival, then by row."""
        return self.arrival, self.first_row

    @property
    def is_suspect(self) -> bool:
        """Whether one more loss ends its request. A suspect gets a replica to itself, so that no other is blamed."""
        return self.num_losses + 1 >= MAX_LOSSES


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceAdded:
    """A request has arrived."""

    request_id: str
    num_rows: int
    """The number of rows, >= 1; 1 if the graph has no batch axis."""
    signature: Hashable
    """Only requests with equal signatures share a batch."""
    deadline_s: float | None
    """The deadline on the clock of `now_s`; None: there is none."""
    row_cost: int = 1
    """The cost of one row (see `WorkSize`): the number of input elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCancelled:
    """The client went away. Ignored if the id is unknown or its request has ended, since the two may cross."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCompleted:
    """A replica has answered a batch."""

    replica: int
    batch_id: int
    compute_s: tuple[float, ...] = ()
    """Seconds that each stage computed; empty if not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefused:
    """A replica could not run a batch because of its contents. The replica continues."""

    replica: int
    batch_id: int
    reason: str
    """The error, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What the workers of one replica can do."""

    num_stages: int
    """Stages of the pipeline, >= 1: the number of batches that it can compute at once."""


Event = (
    InferenceAdded
    | InferenceCancelled
    | BatchCompleted
    | BatchRefused
    | WorkersProgressed
    | ReplicaReady[BatchLimits]
    | ReplicaJoined[BatchLimits]
    | ReplicaLost
    | Tick
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitBatch:
    """Run these parts, concatenated in this order, as one batch."""

    replica: int
    batch_id: int
    """The batch's id, unique over all replicas."""
    parts: tuple[Part, ...]
    num_rows: int
    """Rows of all parts together. For a graph with a fixed number of rows the batch must be padded."""
    limit_s: float | None = None
    """Seconds after which a worker gives up the batch, so that it can continue with others; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCompleted:
    """All rows of the request are computed. No later effect names it."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceFailed:
    """The request ends without outputs. No later effect names it."""

    request_id: str
    error: ShoalError


Effect = RecoveryEffect | SubmitBatch | InferenceCompleted | InferenceFailed

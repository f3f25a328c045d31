"""What happens to the batching of one model (events) and what it wants done (effects)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from shoal.core.recovery.events import (
    RecoveryEffect,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    Tick,
    WorkersProgressed,
)
from shoal.errors import ShoalError

MAX_LOSSES = 3
"""A request that was on so many lost replicas in a row is taken to be what breaks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some contiguous rows of a request: what batches are made of."""

    request_id: str
    arrival: int
    """of its request: 0, 1, ... in the order of coming"""
    first_row: int
    num_rows: int
    num_losses: int = 0
    """replicas in a row that were lost while they had it"""
    runs_alone: bool = False
    """a batch with others has failed, so that it runs by itself now: the others are not to suffer for it"""

    @property
    def order(self) -> tuple[int, int]:
        """The oldest request first, its rows in their order."""
        return self.arrival, self.first_row

    @property
    def is_suspect(self) -> bool:
        """Whether one more loss ends its request: it has its replica to itself then, so that no other is blamed."""
        return self.num_losses + 1 >= MAX_LOSSES


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceAdded:
    """A request has arrived."""

    request_id: str
    num_rows: int
    """>= 1; 1 where the graph has no rows"""
    signature: Hashable
    """only rows of requests with equal signatures run together"""
    deadline_s: float | None
    """on the clock of `now_s`; None: it may take any time"""
    row_cost: int = 1
    """of one row, see `WorkSize`: the elements of the inputs"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCancelled:
    """The client went away. An id that is unknown or has ended is ignored: the two may cross."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCompleted:
    """A replica has answered a batch."""

    replica: int
    batch_id: int
    compute_s: tuple[float, ...] = ()
    """seconds of each stage; empty where they are not known"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefused:
    """A replica could not run a batch, because of what is in it. The replica goes on."""

    replica: int
    batch_id: int
    reason: str
    """one line"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What a replica's workers may be asked."""

    num_stages: int
    """batches that can usefully be computed at once, >= 1"""


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
    """Run these rows, joined in this order, as one batch."""

    replica: int
    batch_id: int
    """unique over all replicas"""
    parts: tuple[Part, ...]
    num_rows: int
    """of the parts together; a graph with fixed rows needs the batch padded"""
    limit_s: float | None = None
    """when a worker is to give it up, so that it can go on with others; None: never"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCompleted:
    """All rows of the request are computed. The last effect that names it."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceFailed:
    """The request ends without outputs. The last effect that names it."""

    request_id: str
    error: ShoalError


Effect = RecoveryEffect | SubmitBatch | InferenceCompleted | InferenceFailed

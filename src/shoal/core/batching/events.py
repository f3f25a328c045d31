"""What happens to the batching of one model (events) and what it wants done (effects)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from shoal.errors import ShoalError


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


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCancelled:
    """The client went away. An id that is unknown or has ended is ignored: the two may cross."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCompleted:
    """A replica has answered a batch."""

    replica: int
    batch_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefused:
    """A replica could not run a batch, because of what is in it. The replica goes on."""

    replica: int
    batch_id: int
    reason: str
    """one line"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLost:
    """A worker of the replica is gone for good, and with it every batch that it had."""

    replica: int
    reason: str
    """one line"""


@dataclass(frozen=True, slots=True)
class Tick:
    """All that has happened is told: now let requests expire and form batches."""


Event = InferenceAdded | InferenceCancelled | BatchCompleted | BatchRefused | ReplicaLost | Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitBatch:
    """Run these rows, joined in this order, as one batch."""

    replica: int
    batch_id: int
    """unique over all replicas"""
    parts: tuple[Part, ...]
    num_rows: int
    """of the parts together; a graph with fixed rows needs the batch padded"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCompleted:
    """All rows of the request are computed. The last effect that names it."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceFailed:
    """The request ends without outputs. The last effect that names it."""

    request_id: str
    error: ShoalError


Effect = SubmitBatch | InferenceCompleted | InferenceFailed

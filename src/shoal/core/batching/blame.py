"""Which requests are blamed for the loss of a replica, and how the rows that it had in flight run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.core.batching.events import Part
from shoal.core.recovery.config import MAX_LOSSES
from shoal.core.recovery.events import ReplicaLost
from shoal.errors import InvalidRequest, ShoalError, WorkerLost


def find_condemned(parts: Sequence[Part], lost: ReplicaLost, *, was_alone: bool) -> set[str]:
    """Ids of the requests that are failed because their replica was lost.

    Args:
        parts: the parts in flight on the replica whose requests have not ended.
        lost: the loss.
        was_alone: whether everything in flight there, including parts of ended requests, belonged to one request.
    """
    return {part.request_id for part in parts if part.is_suspect or (lost.is_crash and was_alone)}


def failure(lost: ReplicaLost) -> ShoalError:
    """The error of a request that is blamed for lost replicas."""
    if lost.is_crash:
        return InvalidRequest(f"the workers did not survive this request, which they had alone: {lost.reason}")
    return WorkerLost(f"replicas were lost while they computed the request, the last time alone: {lost.reason}")


def after_loss(part: Part, lost: ReplicaLost) -> Part:
    """The part as it is queued again after a loss. Its last try runs alone, so that it cannot take others with it.

    After a crash one of the requests in flight is to blame, so each of them runs alone next.
    """
    after = replace(part, num_losses=MAX_LOSSES - 1 if lost.is_crash else part.num_losses + 1)
    return replace(after, runs_alone=after.runs_alone or after.is_suspect)

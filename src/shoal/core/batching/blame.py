"""Which requests are taken to break replicas, and how rows run again that were there when one was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.core.batching.events import MAX_LOSSES, Part
from shoal.core.recovery.events import ReplicaLost
from shoal.errors import InvalidRequest, ShoalError, WorkerLost


def find_condemned(parts: Sequence[Part], lost: ReplicaLost, *, was_alone: bool) -> set[str]:
    """Ids of requests that end with the loss of a replica.

    Args:
        parts: of requests that have not ended, in flight on the replica.
        lost: the loss.
        was_alone: whether all that was in flight there belonged to one request, ended ones included.
    """
    return {part.request_id for part in parts if part.is_suspect or (lost.is_crash and was_alone)}


def failure(lost: ReplicaLost) -> ShoalError:
    """What a request ends with that is taken to be what breaks replicas."""
    if lost.is_crash:
        return InvalidRequest(f"the workers did not survive this request, which they had alone: {lost.reason}")
    return WorkerLost(f"replicas were lost while they computed the request, the last time alone: {lost.reason}")


def after_loss(part: Part, lost: ReplicaLost) -> Part:
    """The part as it runs again; the last time alone, so that what breaks replicas takes no other request with it.

    Of those that were there at a crash one is to blame, so that each of them runs alone at once.
    """
    after = replace(part, num_losses=MAX_LOSSES - 1 if lost.is_crash else part.num_losses + 1)
    return replace(after, runs_alone=after.runs_alone or after.is_suspect)

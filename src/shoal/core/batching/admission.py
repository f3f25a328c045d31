"""Whether a request is worth queueing: is there room, and can it be done in its time?"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.batching.config import BatchingConfig
from shoal.core.batching.events import InferenceAdded
from shoal.core.batching.queue import BatchingQueue
from shoal.core.batching.replicas import Replica, drain_s
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, ShoalError, WorkerLost

_MAX_QUEUES = 16
"""Rows of one request, in full queues: more would keep everybody else waiting for too long. A judgment."""
_UNKNOWN_RETRY_S = 1.0
"""Retry-After where nothing has been measured yet: HTTP's smallest number of whole seconds (RFC 9110, 10.2.3)."""
_MIN_RETRY_S = 1e-3
"""Never "at once", which would invite to a busy loop. A judgment."""


def reason_to_refuse(
    event: InferenceAdded,
    config: BatchingConfig,
    replicas: Sequence[Replica],
    queue: BatchingQueue,
    *,
    max_rows: int,
    now_s: float,
) -> ShoalError | None:
    """Why a request should not even be tried, or None.

    Args:
        event: the request.
        config: the limits.
        replicas: lost ones included.
        queue: what waits before it.
        max_rows: of one batch.
        now_s: on the clock of the request's deadline.
    """
    if all(replica.life.is_given_up for replica in replicas):
        return WorkerLost("no replica of the model is left")
    if event.num_rows > (most := _MAX_QUEUES * config.max_queue_rows):
        return InvalidRequest(
            f"the request has {event.num_rows} rows, but at most {most} are allowed; send them in several requests"
        )
    living = [replica for replica in replicas if not replica.is_lost]
    if queue and queue.num_rows + event.num_rows > config.max_queue_rows:
        excess = min(queue.num_rows + event.num_rows - config.max_queue_rows, queue.num_rows)
        retry_s = retry_after_s(replicas, queue, max_rows=max_rows, now_s=now_s, rows=excess)
        return QueueFull(f"{queue.num_rows} rows are already waiting, and {event.num_rows} more do not fit", retry_s)
    if event.deadline_s is None:
        return None
    if not queue and not all(replica.in_flight for replica in living) and now_s < event.deadline_s:
        return None  # it starts at once; and were it refused, a measurement that is too high could never mend
    rows = queue.num_rows + event.num_rows
    num_batches = _num_batches(rows, max_rows, queue.num_signatures + (event.signature not in queue))
    done_s = now_s + (drain_s(replicas, rows=rows, num_batches=num_batches, now_s=now_s) or 0.0)
    if done_s < event.deadline_s:
        return None
    late_s = done_s - event.deadline_s
    return DeadlineExceeded("the request cannot be finished in the time it was given", max(late_s, _MIN_RETRY_S))


def retry_after_s(
    replicas: Sequence[Replica], queue: BatchingQueue, *, max_rows: int, now_s: float, rows: int | None = None
) -> float:
    """Seconds until so many of the waiting rows, None for all, are likely to be done."""
    rows = max(queue.num_rows if rows is None else rows, 1)
    num_batches = _num_batches(rows, max_rows, queue.num_signatures)
    expected_s = drain_s(replicas, rows=rows, num_batches=num_batches, now_s=now_s)
    return _UNKNOWN_RETRY_S if expected_s is None else max(expected_s, _MIN_RETRY_S)


def _num_batches(rows: int, max_rows: int, num_signatures: int) -> int:
    """Batches that rows need which do not all run together, at the least."""
    return max(-(-rows // max_rows), min(num_signatures, rows))

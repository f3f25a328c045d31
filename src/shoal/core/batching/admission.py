"""Admission control: whether the queue has room for a request and whether it can be finished before its deadline."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.batching.config import BatchingConfig
from shoal.core.batching.events import InferenceAdded
from shoal.core.batching.queue import BatchingQueue
from shoal.core.batching.replicas import Replica, drain_s
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, ShoalError, WorkerLost

_MAX_QUEUES = 16
"""A request may have at most this many times `max_queue_rows` rows: a larger one would block all others for too long. A
judgment."""
_UNKNOWN_RETRY_S = 1.0
"""Retry-After before anything has been measured: the smallest whole number of seconds above 0 (RFC 9110, 10.2.3)."""
_MIN_RETRY_S = 1e-3
"""The shortest Retry-After; 0 would invite a busy loop. A judgment."""


def reason_to_refuse(
    event: InferenceAdded,
    config: BatchingConfig,
    replicas: Sequence[Replica],
    queue: BatchingQueue,
    *,
    max_rows: int,
    now_s: float,
) -> ShoalError | None:
    """Return the error with which a new request is refused, or None to admit it.

    Args:
        event: the request.
        config: the limits.
        replicas: all replicas, including lost ones.
        queue: the rows that already wait.
        max_rows: the most rows that one batch may have.
        now_s: the time, on the same clock as the request's deadline.
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
        # It starts at once; refusing it would keep an estimate that is too high from ever being corrected.
        return None
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
    """Expected seconds until `rows` of the waiting rows (None: all of them) are done."""
    rows = max(queue.num_rows if rows is None else rows, 1)
    num_batches = _num_batches(rows, max_rows, queue.num_signatures)
    expected_s = drain_s(replicas, rows=rows, num_batches=num_batches, now_s=now_s)
    return _UNKNOWN_RETRY_S if expected_s is None else max(expected_s, _MIN_RETRY_S)


def _num_batches(rows: int, max_rows: int, num_signatures: int) -> int:
    """The least number of batches for so many rows with so many different signatures."""
    return max(-(-rows // max_rows), min(num_signatures, rows))

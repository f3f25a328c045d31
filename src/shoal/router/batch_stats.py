"""Statistics of one model's batching: Triton's statistics under Shoal's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.core.batching.scheduler import BatchScheduler
from shoal.core.recovery.replica_status import ReplicaWork
from shoal.core.recovery.worker_life import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """A snapshot for metrics. Source: Triton's metrics, sections "Count" and "Inference Request"."""

    num_rows: int
    """Rows computed so far: Triton's inference count, in which a batch of n counts n."""
    num_batches: int
    """Batches computed so far: Triton's execution count."""
    num_succeeded: int
    """Requests that ended with outputs."""
    num_failed: int
    """Requests that were refused or ended with an error."""
    queue_s: float
    """Seconds in the queue, summed over the succeeded requests."""
    compute_s: float
    """Seconds of computing, summed over the succeeded requests, each with the whole time of its batches."""
    batch_sizes: Mapping[int, int]
    """Computed batches by their rows, without padding."""
    num_requests: int
    """Unfinished requests."""
    queued_requests: int
    """Unfinished requests with waiting rows."""
    queued_rows: int
    in_flight_rows: int
    in_flight_batches: int
    num_replicas: int
    """Replicas that have all their workers."""
    rows_per_s: float
    """Rows per second of these replicas together while they are busy, from their latest batches."""
    num_recovering: int
    """Replicas whose workers are lost and will be restarted."""
    num_losses: int
    """Losses of workers so far."""
    num_recoveries: int
    """The number of times that a lost replica got workers again so far."""
    phases: tuple[Phase, ...]
    """The phase of each replica's workers."""
    reduced: tuple[bool, ...]
    """Whether each replica runs without a worker that could not be restarted."""
    slowdowns: tuple[tuple[float, ...], ...]
    """[replica][stage]: observed over expected seconds of the latest batches; empty before the first batch."""
    stage_s: tuple[tuple[float, ...], ...]
    """[replica][stage]: mean seconds of the latest batches."""
    work: tuple[ReplicaWork, ...]
    """The work of each replica."""
    recovery_s: float
    """Seconds for which replicas had no workers, summed over all recoveries."""


@dataclass(slots=True)
class BatchCounts:
    """The counters behind `BatchStats`, which never decrease."""

    num_succeeded: int = 0
    num_failed: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_sizes: dict[int, int] = field(default_factory=dict[int, int])

    def note_batch(self, num_rows: int) -> None:
        """Count a computed batch."""
        self.batch_sizes[num_rows] = self.batch_sizes.get(num_rows, 0) + 1

    def note_end(self, *, succeeded: bool, queue_s: float, compute_s: float) -> None:
        """Count a request that has ended."""
        if succeeded:
            self.num_succeeded += 1
            self.queue_s += queue_s
            self.compute_s += compute_s
        else:
            self.num_failed += 1

    def snapshot(self, scheduler: BatchScheduler, pids: Sequence[tuple[int, ...]]) -> BatchStats:
        """The counters together with the scheduler's state. `pids`: the process ids of each replica's workers."""
        recovery = scheduler.recovery_stats()
        living = [replica for replica in scheduler.replicas if not replica.is_lost]
        return BatchStats(
            num_rows=sum(rows * count for rows, count in self.batch_sizes.items()),
            num_batches=sum(self.batch_sizes.values()),
            num_succeeded=self.num_succeeded,
            num_failed=self.num_failed,
            queue_s=self.queue_s,
            compute_s=self.compute_s,
            batch_sizes=dict(self.batch_sizes),
            num_requests=scheduler.num_requests,
            queued_requests=scheduler.num_waiting_requests,
            queued_rows=scheduler.waiting_rows,
            in_flight_rows=sum(replica.rows_in_flight for replica in living),
            in_flight_batches=sum(len(replica.in_flight) for replica in living),
            num_replicas=recovery.num_serving,
            rows_per_s=sum(replica.times.rows_per_s for replica in living),
            num_recovering=recovery.num_recovering,
            num_losses=recovery.num_losses,
            num_recoveries=recovery.num_recoveries,
            phases=recovery.phases,
            reduced=recovery.reduced,
            slowdowns=tuple(replica.meter.slowdowns() for replica in scheduler.replicas),
            stage_s=tuple(replica.meter.stage_s() for replica in scheduler.replicas),
            work=tuple(
                ReplicaWork(
                    num_running=replica.rows_in_flight,
                    num_waiting=0,
                    kv_usage=None,
                    busy_s=replica.meter.busy_s(),
                    pids=of_workers,
                )
                for replica, of_workers in zip(scheduler.replicas, pids, strict=True)
            ),
            recovery_s=recovery.recovery_s,
        )

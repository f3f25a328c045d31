"""What one model's batching has done and is doing: Triton's statistics under Shoal's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.core.batching.scheduler import BatchScheduler
from shoal.core.recovery.replica_status import ReplicaWork
from shoal.core.recovery.worker_life import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """A snapshot. Source of the meanings: Triton's metrics, "Count" and "Inference Request" sections."""

    num_rows: int
    """computed so far: Triton's inference count, where a batch of n counts n"""
    num_batches: int
    """computed so far: Triton's execution count"""
    num_succeeded: int
    """requests that ended with outputs"""
    num_failed: int
    """requests that were refused or ended with an error"""
    queue_s: float
    """summed over the succeeded requests"""
    compute_s: float
    """summed over the succeeded requests, each with the whole time of its batches"""
    batch_sizes: Mapping[int, int]
    """computed batches by their rows, padding excluded"""
    num_requests: int
    """unfinished"""
    queued_requests: int
    """of which rows wait"""
    queued_rows: int
    in_flight_rows: int
    in_flight_batches: int
    num_replicas: int
    """with all their workers"""
    rows_per_s: float
    """of these together, by their latest batches, while they have something to do"""
    num_recovering: int
    """replicas whose workers are lost and are to be started again"""
    num_losses: int
    """times that workers were lost, so far"""
    num_recoveries: int
    """times that a lost replica had workers again, so far"""
    phases: tuple[Phase, ...]
    """of each replica's workers"""
    reduced: tuple[bool, ...]
    """for each replica, whether it does without a worker that could not be started again"""
    slowdowns: tuple[tuple[float, ...], ...]
    """for each stage of each replica, how many times as long as expected its latest batches took; empty where no worker
    has computed yet"""
    stage_s: tuple[tuple[float, ...], ...]
    """for each replica and stage, mean seconds of the latest batches"""
    work: tuple[ReplicaWork, ...]
    """of each replica"""
    recovery_s: float
    """for how long replicas had no workers, summed over the recoveries"""


@dataclass(slots=True)
class BatchCounts:
    """The counts behind `BatchStats` that only ever grow."""

    num_succeeded: int = 0
    num_failed: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_sizes: dict[int, int] = field(default_factory=dict[int, int])

    def note_batch(self, num_rows: int) -> None:
        """A batch was computed."""
        self.batch_sizes[num_rows] = self.batch_sizes.get(num_rows, 0) + 1

    def note_end(self, *, succeeded: bool, queue_s: float, compute_s: float) -> None:
        """A request has ended."""
        if succeeded:
            self.num_succeeded += 1
            self.queue_s += queue_s
            self.compute_s += compute_s
        else:
            self.num_failed += 1

    def snapshot(self, scheduler: BatchScheduler, pids: Sequence[tuple[int, ...]]) -> BatchStats:
        """Together with what the scheduler is at. `pids`: of each replica's workers."""
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

"""The share of canaries in a model's counters, which is subtracted because they are no client's requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from shoal.router.batch_engine import BatchStats, InferenceResult


@dataclass(slots=True)
class CanaryCounts:
    """Counters of one model's canaries. Mutable."""

    num_succeeded: int = 0
    num_rows: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    own_batches: Counter[int] = field(default_factory=Counter[int])
    """Batches without any other request, by their rows."""

    def add(self, result: InferenceResult, num_rows: int) -> None:
        """Count a canary of so many rows that has succeeded."""
        self.num_succeeded += 1
        self.num_rows += num_rows
        self.queue_s += result.queue_s
        self.compute_s += result.compute_s
        if result.batch_rows == num_rows:
            self.own_batches[num_rows] += 1

    def left_out_of(self, stats: BatchStats) -> BatchStats:
        """The counters without the canaries. The size of a batch that a canary shared is unchanged."""
        return replace(
            stats,
            num_rows=stats.num_rows - self.num_rows,
            num_batches=stats.num_batches - self.own_batches.total(),
            num_succeeded=stats.num_succeeded - self.num_succeeded,
            queue_s=stats.queue_s - self.queue_s,
            compute_s=stats.compute_s - self.compute_s,
            batch_sizes=Counter(stats.batch_sizes) - self.own_batches,
        )

"""Replicas that are kept busy for a short while."""

from __future__ import annotations

from collections import Counter
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.measure.graph import batch_times
from shoal.measure.graph.batch_times import MedianBatch, quickest, time_batches, warm_up
from shoal.router.graph_executor import Batch, BatchResult


class Instant:
    """Answers each batch when it is polled, with the seconds that it is told."""

    num_stages = 1

    def __init__(self, compute_s: float, error: str | None = None) -> None:
        self.compute_s, self.error = compute_s, error
        self.waiting: list[Batch] = []
        self.depths = Counter[int]()
        self.num_released = self.num_answered = 0

    def submit(self, batch: Batch) -> None:
        self.waiting.append(batch)
        self.depths[len(self.waiting)] += 1

    def poll(self) -> list[BatchResult]:
        batch = self.waiting.pop(0)
        self.num_answered += 1
        times_s = (self.compute_s / 2, self.compute_s)
        return [
            BatchResult(
                batch_id=batch.batch_id, outputs={}, compute_s=times_s, error=self.error, release=self.count_release
            )
        ]

    def count_release(self) -> None:
        self.num_released += 1

    def filenos(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None: ...


INPUTS = {"x": np.zeros(1, np.float32)}


@pytest.mark.parametrize("depth", [1, 2])
def test_every_replica_is_kept_busy_and_left_idle(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(step=1e-3)
    monkeypatch.setattr(batch_times, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    replicas = [Instant(0.25), Instant(0.25)]
    warm_up(replicas, INPUTS)
    assert all(set(replica.depths) == {1} and not replica.waiting for replica in replicas)
    times = time_batches(replicas, INPUTS, depth=depth)
    assert times.compute_s == 0.25  # of the slower of two stages
    assert 0 < times.period_s < 0.1
    for replica in replicas:
        assert set(replica.depths) == set(range(1, depth + 1))
        assert replica.waiting == []
        assert replica.num_released == replica.num_answered > 3


def test_the_least_disturbed_turn_counts_as_a_whole() -> None:
    turns = [MedianBatch(compute_s=compute_s, period_s=period_s) for compute_s, period_s in ((1.0, 3.0), (1.5, 2.0))]
    assert quickest(turns) == turns[1]


def test_a_graph_that_refuses_the_inputs_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot be measured on these inputs: wrong shape"):
        time_batches([Instant(0.1, "wrong shape")], INPUTS, depth=1)

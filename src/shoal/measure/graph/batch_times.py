"""Timing real executors that repeat the same batch for a short while."""

from __future__ import annotations

import select
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from shoal.errors import ConfigError, WorkerLost
from shoal.router.graph_executor import Batch, BatchId, BatchResult, GraphExecutor, Tensors

_WARM_UP_S, _WARM_UP_BATCHES = 0.2, 1
_ENOUGH_S = 0.4
"""Shortest measurement: several time slices of other processes on the machine."""
_MIN_BATCHES = 3
_ANSWER_TIMEOUT_S = 120.0
"""Longest wait for a batch, as it is repeated several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianBatch:
    """Median times over the batches of all replicas."""

    compute_s: float
    """Seconds of computing in the slowest stage."""
    period_s: float
    """Seconds between two answers of one replica."""


def time_batches(executors: Sequence[GraphExecutor], inputs: Tensors, *, depth: int) -> MedianBatch:
    """Keep all replicas busy for a short while and return the median times.

    Args:
        executors: warmed-up executors without other work; they are idle again afterwards.
        inputs: the inputs of every batch.
        depth: batches in flight per replica; 1 measures the round trip of a single batch.

    Raises:
        ConfigError: the graph does not run on these inputs.
        WorkerLost: a replica died or does not answer.
    """
    answers = _Rounds(executors, inputs, depth).run(_ENOUGH_S, _MIN_BATCHES)
    periods_s = [later - earlier for one in answers for earlier, later in pairwise(one.times_s)]
    return MedianBatch(
        compute_s=statistics.median(seconds for one in answers for seconds in one.compute_s),
        period_s=statistics.median(periods_s),
    )


def time_each(executors: Sequence[GraphExecutor], inputs: Tensors, *, depth: int) -> list[float]:
    """Median seconds that each replica computes for a batch while all are busy. Replicas may differ much in speed.

    Args:
        executors: warmed-up executors without other work; they are idle again afterwards.
        inputs: the inputs of every batch.
        depth: batches in flight per replica.

    Raises:
        ConfigError, WorkerLost: as `time_batches`.
    """
    answers = _Rounds(executors, inputs, depth).run(_ENOUGH_S, 1)
    return [statistics.median(one.compute_s) for one in answers]


def warm_up(executors: Sequence[GraphExecutor], inputs: Tensors) -> None:
    """Run all replicas briefly, so that they allocate their memory. Raises: as `time_batches`."""
    _Rounds(executors, inputs, 1).run(_WARM_UP_S, _WARM_UP_BATCHES)


def quickest(times: Iterable[MedianBatch]) -> MedianBatch:
    """The shortest of several measurements, as other processes only ever add time."""
    return min(times, key=lambda one: one.period_s)


@dataclass(slots=True)
class _Answers:
    """The answers of one replica. Mutable."""

    times_s: list[float] = field(default_factory=list[float])
    compute_s: list[float] = field(default_factory=list[float])
    in_flight: int = 0


class _Rounds:
    """One measurement of several replicas."""

    def __init__(self, executors: Sequence[GraphExecutor], inputs: Tensors, depth: int) -> None:
        self._executors = executors
        self._inputs = inputs
        self._depth = depth
        self._answers = [_Answers() for _ in executors]
        self._num_sent = 0

    def run(self, enough_s: float, min_batches: int) -> list[_Answers]:
        """Run until every replica has answered enough. Answers after the last batch was sent do not count."""
        started_s = time.perf_counter()
        while (
            time.perf_counter() - started_s < enough_s or min(len(one.times_s) for one in self._answers) < min_batches
        ):
            for index, one in enumerate(self._answers):
                while one.in_flight < self._depth:
                    self._send(index)
            self._collect(counts=True)
        while any(one.in_flight for one in self._answers):
            self._collect(counts=False)
        return self._answers

    def _send(self, index: int) -> None:
        self._executors[index].submit(Batch(batch_id=BatchId(self._num_sent), inputs=self._inputs))
        self._answers[index].in_flight += 1
        self._num_sent += 1

    def _collect(self, *, counts: bool) -> None:
        self._wait()
        for index, executor in enumerate(self._executors):
            if self._answers[index].in_flight:
                for result in executor.poll():
                    self._take(self._answers[index], result, counts=counts)

    def _wait(self) -> None:
        poller = select.poll()
        filenos = [fd for executor in self._executors for fd in executor.filenos()]
        for fd in filenos:
            poller.register(fd, select.POLLIN)
        if filenos and not poller.poll(_ANSWER_TIMEOUT_S * 1e3):
            raise WorkerLost(f"no worker answered within {_ANSWER_TIMEOUT_S:.0f} s while the graph was measured")

    def _take(self, answers: _Answers, result: BatchResult, *, counts: bool) -> None:
        if result.release is not None:
            result.release()
        if result.error is not None:
            raise ConfigError(f"the graph cannot be measured on these inputs: {result.error}")
        answers.in_flight -= 1
        if counts:
            answers.times_s.append(time.perf_counter())
            answers.compute_s.append(max(result.compute_s))

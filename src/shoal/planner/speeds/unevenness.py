"""Unevenness: how the speed of workers varies from one moment to the next, as observed for a few seconds.

Neighbors on a shared host, other processes and the processor's own heat make the same step take twice as long now and
then. The mean is part of a worker's speed; the variation determines the 99th percentile that clients see. Each replica
has an unevenness of its own: two replicas of exactly the same speed would stay in step forever, and real ones drift
apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from statistics import harmonic_mean

import numpy as np

from shoal.arrays import F64


@dataclass(frozen=True, slots=True)
class TimedMoment:
    """A short period in which one kind of work was run repeatedly."""

    kind: Hashable
    lasted_s: float
    run_s: float
    """Mean seconds of a run."""


class Unevenness:
    """A periodic sequence of intervals in which work takes longer or shorter than on average. Immutable."""

    def __init__(self, seconds: Sequence[float] = (), factors: Sequence[float] = ()) -> None:
        """Make a sequence of intervals; without any, the speed is constant.

        Args:
            seconds: the length of each interval, > 0.
            factors: the time that work takes in each interval, relative to the average, > 0.
        """
        work_s = [lasts_s / factor for lasts_s, factor in zip(seconds, factors, strict=True)]
        self._ends_s: F64 = np.array(list(accumulate(seconds, initial=0.0)))
        self._work_s: F64 = np.array(list(accumulate(work_s, initial=0.0)))

    @property
    def is_even(self) -> bool:
        """Whether the speed is constant."""
        return len(self._ends_s) == 1

    def stretch(self, at_s: float, seconds: float) -> float:
        """Seconds that work takes if it begins at `at_s` and takes `seconds` on average, both >= 0."""
        if self.is_even:
            return seconds
        whole_s, whole_work_s = float(self._ends_s[-1]), float(self._work_s[-1])
        cycles, into_s = divmod(at_s, whole_s)
        work_s = float(np.interp(into_s, self._ends_s, self._work_s)) + seconds
        more_cycles, work_s = divmod(work_s, whole_work_s)
        done_s = (cycles + more_cycles) * whole_s + float(np.interp(work_s, self._work_s, self._ends_s))
        return done_s - at_s

    def intervals(self) -> Iterator[tuple[float, float]]:
        """(factor, seconds) of each interval, in order."""
        for (begin_s, end_s), (begun_s, done_s) in zip(
            pairwise(self._ends_s.tolist()), pairwise(self._work_s.tolist()), strict=True
        ):
            yield (end_s - begin_s) / (done_s - begun_s), end_s - begin_s


EVEN = Unevenness()
"""Constant speed, for machines that were not observed."""


def factor_beyond(all_replicas: Sequence[Unevenness], share: float) -> float:
    """The factor over the average time of work that is reached or exceeded for this share of the time, 0 to 1."""
    intervals = sorted(chain.from_iterable(one.intervals() for one in all_replicas), reverse=True)
    left_s = share * sum(lasts_s for _, lasts_s in intervals)
    for factor, lasts_s in intervals:
        left_s -= lasts_s
        if left_s <= 0.0:
            return factor
    return 1.0


def unevenness_of(moments: Sequence[Sequence[TimedMoment]]) -> tuple[Unevenness, ...]:
    """The unevenness of each replica: the time of a run in each moment, relative to others of its kind.

    Args:
        moments: successive moments of each replica. They are compared with the average of all replicas, so a replica
            that is always slower than the others remains so.
    """
    runs_s: defaultdict[Hashable, list[float]] = defaultdict(list)
    for one in chain.from_iterable(moments):
        runs_s[one.kind].append(one.run_s)
    typical_s = {kind: harmonic_mean(seconds) for kind, seconds in runs_s.items()}
    factors = [[one.run_s / typical_s[one.kind] for one in of_replica] for of_replica in moments]
    lasted_s = [[one.lasted_s for one in of_replica] for of_replica in moments]
    average = _average(chain.from_iterable(lasted_s), chain.from_iterable(factors))
    return tuple(
        Unevenness(seconds, [factor / average for factor in own])
        for seconds, own in zip(lasted_s, factors, strict=True)
    )


def _average(seconds: Iterator[float], factors: Iterator[float]) -> float:
    """The constant factor with which the same amount of work is done in the same time."""
    intervals = list(zip(seconds, factors, strict=True))
    work = sum(lasts_s / factor for lasts_s, factor in intervals)
    return sum(lasts_s for lasts_s, _ in intervals) / work if work else 1.0

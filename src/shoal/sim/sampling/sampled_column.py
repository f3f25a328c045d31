"""Percentiles of one latency over all of a time of which parts were simulated, and intervals for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from shoal.arrays import F64
from shoal.sim.cluster.outcome import PERCENTILES, LatencyPercentiles
from shoal.sim.sampling.intervals import BatchSums, Interval, margin
from shoal.sim.sampling.sampler import SteadyStretch

_TIMES_AS_MANY = (1.0, 2.0, 5.0)
_LOWEST_LEVEL = 0.3
"""Shares at which it is asked how much requests depend on each other. Source: tests/sim/sampling, with 42 seeds:
intervals of p99 per token and end to end held 82 times of 100 by the first alone, 93 times by all three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyIntervals:
    """Where the percentiles of a `LatencyPercentiles` lie; seconds."""

    p50_s: Interval
    p95_s: Interval
    p99_s: Interval


@dataclass(frozen=True, slots=True)
class SampledColumn:
    """One latency of all simulated requests, in the order in which they were answered."""

    values: F64
    bounds: Sequence[Sequence[int]]
    """of each stretch's batches"""
    stretches: Sequence[SteadyStretch]

    def estimate(self) -> tuple[LatencyPercentiles, LatencyIntervals]:
        """Of all requests, also those that were skipped, interpolated as `percentiles` does where none was."""
        if not len(self.values):
            nothing = Interval(0.0, 0.0)
            return LatencyPercentiles(p50_s=0.0, p95_s=0.0, p99_s=0.0), LatencyIntervals(
                p50_s=nothing, p95_s=nothing, p99_s=nothing
            )
        weights = np.ones(len(self.values))
        for bounds, stretch in zip(self.bounds, self.stretches, strict=True):
            weights[bounds[0] : bounds[-1]] = stretch.weight
        order = np.argsort(self.values, kind="stable")
        ascending, weights = self.values[order], weights[order]
        before = np.cumsum(weights) - weights
        total = float(before[-1])
        points, intervals = list[float](), list[Interval]()
        for percentile in PERCENTILES:
            share = percentile / 100
            point = float(np.interp(share * total, before, ascending))
            missed = self._margin(share, [float(np.interp(one * total, before, ascending)) for one in _levels(share)])
            low, high = np.interp([share * total - missed, share * total + missed], before, ascending)
            points.append(point)
            intervals.append(Interval(float(low), float(high)))
        return (
            LatencyPercentiles(p50_s=points[0], p95_s=points[1], p99_s=points[2]),
            LatencyIntervals(p50_s=intervals[0], p95_s=intervals[1], p99_s=intervals[2]),
        )

    def _margin(self, share: float, values: Sequence[float]) -> float:
        """Requests by which the number below a percentile may differ from a share of all.

        Slow requests come together, and what is seen of the slowest is a few such times or none: how many times the
        margin is as large as if each were slow for itself is better known a little below. The most that is found at
        some levels is believed at the highest.

        Source: R. S. Woodruff, Confidence intervals for medians and other position measures (1952); the design effect
        of L. Kish, Survey Sampling (1965).

        Args:
            share: of all requests that are below the percentile.
            values: below which the shares of `_levels` are.
        """
        levels = _levels(share)
        alone = [sqrt(one * (1.0 - one)) for one in levels]
        missed = (self._missed(value, level) / own for value, level, own in zip(values, levels, alone, strict=True))
        return max(missed) * alone[0]

    def _missed(self, value: float, share: float) -> float:
        """By how many requests the number below a value may differ from a share of all."""
        above = np.concatenate(((0.0,), np.cumsum((self.values <= value) - share)))
        return margin(
            [
                BatchSums(sums=np.diff(above[list(bounds)]).tolist(), skipped=stretch.skipped_batches)
                for bounds, stretch in zip(self.bounds, self.stretches, strict=True)
            ]
        )


def _levels(share: float) -> list[float]:
    """The share itself, and shares that so many times as many requests are above."""
    return [level for times in _TIMES_AS_MANY if (level := 1.0 - times * (1.0 - share)) > _LOWEST_LEVEL]

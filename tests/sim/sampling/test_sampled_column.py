"""Percentiles of a queue's waiting times, of which the first part was seen, against those of all of them."""

import numpy as np

from shoal.arrays import F64
from shoal.sim.sampling.sampled_column import SampledColumn
from shoal.sim.sampling.sampler import Mark, SteadyStretch

BATCHES, REQUESTS, SKIPPED, RUNS = 20, 100, 80, 150
LOAD = 0.7


def waiting_s(rng: np.random.Generator, count: int) -> F64:
    """Of requests that come at random to one server which takes a second for each: long ones come together.

    Source: Lindley's recursion, as the largest of all sums of steps that end here.
    """
    walk = np.cumsum(1.0 - rng.exponential(1.0 / LOAD, count))
    return walk - np.minimum.accumulate(np.minimum(walk, 0.0))


def steady_stretch() -> SteadyStretch:
    """Batches of as many requests, and four times as many that were skipped."""
    marks = [
        Mark(
            at_s=float(index),
            num_answered=index * REQUESTS,
            num_paced=0,
            counts=(0, 0, 0, 0),
            busy_s={},
            mean_e2e_s=1.0,
            num_open=1,
        )
        for index in range(BATCHES + 1)
    ]
    return SteadyStretch(marks=marks, skipped_s=float(SKIPPED))


def test_intervals_of_the_slowest_hold_though_slow_requests_come_together() -> None:
    """About 94 times of 100; by what is seen of the slowest hundredth alone, 86 times."""
    rng, stretch = np.random.default_rng(0), steady_stretch()
    bounds = [[mark.num_answered for mark in stretch.marks]]
    num_within = {"p50_s": 0, "p95_s": 0, "p99_s": 0}
    for _ in range(RUNS):
        every = waiting_s(rng, (BATCHES + SKIPPED) * REQUESTS)
        _, within = SampledColumn(every[: BATCHES * REQUESTS], bounds, [stretch]).estimate()
        for name, percentile in zip(num_within, (50, 95, 99), strict=True):
            one = getattr(within, name)
            num_within[name] += one.low <= np.percentile(every, percentile) <= one.high
    assert min(num_within.values()) > 0.9 * RUNS, num_within

"""The best set of replicas for a small fleet: exact, over all ways to divide workers and streams among replicas.

A dynamic program over (workers, streams) adds one replica after the other. The rate of a replica need not be known for
every set of workers: the program starts from upper bounds, and the rates of the replicas that it picks are replaced by
the true ones (`best_replica`) until it picks only true ones. Nothing can be better then, since everything else was
overestimated. That is best-first search as in A*, with the whole program in place of the queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from shoal.arrays import F64, I64
from shoal.planner.search.coverage import covered, least_floor, reach_grid
from shoal.planner.search.fleet_states import FleetStates, fleet_states
from shoal.planner.search.least_sum import least_sum_bounds
from shoal.planner.search.pipeline import Pipeline, micro_batches
from shoal.planner.search.problem import ReplicaProblem
from shoal.planner.search.replica import best_replica

_NUM_LIMITS = 320
"""Limits of a stage in the geometric grid on which upper bounds are based. Source:
`benchmarks/planner_large_models.py`, five unlike machines and 64 streams: 320 limits need half as many searches and
half the time of 40; more cost as much as they save."""
_MOST_SHARES = 512
"""The most units into which streams are divided, since time and memory of the program grow with them. Source: eight
machines of five kinds and 4096 streams, for which planning took more than a minute with as many units and 4 s so."""


def best_partition(
    problem: ReplicaProblem, num_streams: int, stream_counts: Sequence[int], *, max_searches: int
) -> tuple[list[Pipeline], float]:
    """Find the replicas that together advance the most streams per second.

    Args:
        problem: a problem with few enough workers for an exact search.
        num_streams: the most streams of all replicas together.
        stream_counts: the numbers of streams that a replica may have.
        max_searches: the most searches for single replicas; after them the best known result is returned.

    Returns:
        The replicas, and an upper bound on streams per second: what they advance, unless the searches were too few.
    """
    compact, group_ids = problem.compact()
    bounds = _Bounds.of(compact, stream_counts)
    rates = bounds.rates.copy()
    known = np.zeros_like(rates)
    shares = _Shares.of(compact.counts, num_streams, stream_counts)
    exact: dict[tuple[int, int], Pipeline | None] = {}
    while True:
        chosen, bound = shares.best(rates)
        unknown = [pick for pick in dict.fromkeys(chosen) if pick not in exact]
        if not unknown or len(exact) >= max_searches:
            break
        for state, index in unknown:
            smaller = replace(compact, counts=tuple(shares.used[state].tolist()))
            found = best_replica(smaller, stream_counts[index], at_least_s=bounds.at_least_s(state, index))
            exact[state, index] = found
            rates[state, index] = known[state, index] = 0.0 if found is None else found.streams_per_s
    if shares.unit > 1:
        _, bound = _Shares.of(compact.counts, num_streams, stream_counts, is_bound=True).best(rates)
    if unknown:
        chosen, _ = shares.best(known)
    pipelines = [exact[pick] for pick in chosen]
    return [_told(pipeline, group_ids) for pipeline in pipelines if pipeline is not None], bound


def _told(pipeline: Pipeline, group_ids: I64) -> Pipeline:
    stages = [replace(stage, group=int(group_ids[stage.group])) for stage in pipeline.stages]
    return replace(pipeline, stages=tuple(stages))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bounds:
    """Upper bounds on the rates of replicas. Shapes: U states, N stream counts."""

    most_stages: int
    stream_counts: Sequence[int]
    rates: F64
    """[U, N]: upper bounds on streams per second of a replica with exactly these workers."""
    limits: Mapping[int, Sequence[F64]]
    """By rows of a micro-batch, for 1, 2, ... stages as far as needed: [U] lower bounds on the seconds of the slowest
    stage with these workers or some of them."""

    @staticmethod
    def of(problem: ReplicaProblem, stream_counts: Sequence[int]) -> _Bounds:
        states = fleet_states(problem)
        rates = np.zeros((states.num_states, len(stream_counts)))
        uses: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for index, num_streams in enumerate(stream_counts):
            for num_stages in range(1, problem.stage_limit + 1):
                _, rows = micro_batches(num_stages, num_streams)
                uses[rows].append((index, num_stages))
        limits: dict[int, list[F64]] = {}
        for rows, pairs in uses.items():
            times, most_stages = problem.times(rows), max(num_stages for _, num_stages in pairs)
            longest_s = _lower_limits(states, times.work_s, most_stages)
            limits[rows] = [_of_fewer(one_s, problem.counts) for one_s in longest_s]
            sums_s = least_sum_bounds(times, most_stages)
            for index, num_stages in pairs:
                num_micro_batches, _ = micro_batches(num_stages, stream_counts[index])
                period_s = np.maximum(longest_s[num_stages - 1] * num_micro_batches, sums_s[num_stages - 1])
                rates[:, index] = np.maximum(rates[:, index], stream_counts[index] / period_s)
        return _Bounds(most_stages=problem.stage_limit, stream_counts=stream_counts, rates=rates, limits=limits)

    def at_least_s(self, state: int, index: int) -> list[float]:
        """The argument of `best_replica`: lower bounds for 1, 2, ... stages, possibly for more stages than workers."""
        shapes = [
            (num_stages, micro_batches(num_stages, self.stream_counts[index])[1])
            for num_stages in range(1, self.most_stages + 1)
        ]
        return [float(self.limits[rows][num_stages - 1][state]) for num_stages, rows in shapes]


def _lower_limits(states: FleetStates, work_s: F64, most_stages: int) -> list[F64]:
    """For 1, 2, ... stages: [state] lower bounds on the seconds of the slowest stage with exactly these workers."""
    floor, num_blocks = least_floor(work_s), work_s.shape[1] - 1
    if floor == np.inf:
        return [np.full(states.num_states, np.inf)] * most_stages
    most = float(work_s.max(where=np.isfinite(work_s), initial=0.0))
    limits = np.geomspace(max(floor, most * 1e-6), most * (1 + 1e-9), _NUM_LIMITS)
    at_least = np.concatenate([[floor], limits[:-1], [np.inf]])
    by_stages = covered(states, reach_grid(work_s, limits), most_stages)[1:]
    return [at_least[np.count_nonzero(blocks < num_blocks, axis=1)] for blocks in by_stages]


def _of_fewer(values: F64, counts: Sequence[int]) -> F64:
    """[state]: the least value of all states that use no more workers of any class."""
    least = values.reshape([count + 1 for count in counts])
    for axis in range(len(counts)):
        least = np.minimum.accumulate(least, axis=axis)
    return least.reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shares:
    """All ways to give some workers and streams to a first replica and the rest to others. Shapes: U states."""

    used: I64
    """[U, class]: the workers of each state."""
    options: list[tuple[I64, I64]]
    """For each state: the states that the replica with the first worker may have, and the states that are left."""
    idle: I64
    """[U]: the state without the first worker."""
    unit: int
    """The number of streams that are dealt out together: more than one if there are very many streams."""
    cost: I64
    """Units of each stream count; all 0 if there are always enough streams."""
    num_units: int

    @staticmethod
    def of(
        counts: tuple[int, ...], num_streams: int, stream_counts: Sequence[int], *, is_bound: bool = False
    ) -> _Shares:
        """`is_bound`: round units such that no way is left out, instead of such that there are enough streams."""
        needed = np.array(stream_counts)
        used = np.indices([count + 1 for count in counts]).reshape(len(counts), -1).T
        strides = [prod(count + 1 for count in counts[index + 1 :]) for index in range(len(counts))]
        unlimited = num_streams >= max(stream_counts) * sum(counts)
        num_streams = 0 if unlimited else num_streams
        unit = 1 << (max(0, num_streams - 1) // _MOST_SHARES).bit_length()
        options: list[tuple[I64, I64]] = []
        idle = np.zeros(len(used), np.int64)
        for state in range(1, len(used)):
            first = int(np.flatnonzero(used[state])[0])
            idle[state] = state - strides[first]
            inside = np.flatnonzero(np.all(used[: state + 1] <= used[state], axis=1) & (used[: state + 1, first] > 0))
            options.append((inside, state - inside))
        return _Shares(
            used=used,
            options=[(np.zeros(0, np.int64), np.zeros(0, np.int64)), *options],
            idle=idle,
            unit=unit,
            cost=np.zeros_like(needed) if unlimited else needed // unit if is_bound else -(-needed // unit),
            num_units=-(-num_streams // unit) if is_bound else num_streams // unit,
        )

    def best(self, rates: F64) -> tuple[list[tuple[int, int]], float]:
        """The replicas with the highest sum of rates, each as (state of its workers, index of its streams), and the
        sum.

        Args:
            rates: [U, N] rates by state and stream count.
        """
        totals = self._totals(rates)
        chosen: list[tuple[int, int]] = []
        state, streams = len(self.used) - 1, self.num_units
        while state:
            ways = self._ways(rates, totals, state)[:, :, streams]
            best = int(ways.argmax()) if ways.size else 0
            if not ways.size or ways.flat[best] <= totals[self.idle[state], streams]:
                state = int(self.idle[state])
                continue
            option, index = (int(part) for part in np.unravel_index(best, ways.shape))
            chosen.append((int(self.options[state][0][option]), index))
            state, streams = int(self.options[state][1][option]), streams - int(self.cost[index])
        return chosen, float(totals[-1, -1])

    def _totals(self, rates: F64) -> F64:
        """[U, units + 1]: the highest sum of rates with these workers and at most so many units."""
        totals = np.zeros((len(self.used), self.num_units + 1))
        for state in range(1, len(self.used)):
            ways = self._ways(rates, totals, state)
            totals[state] = np.maximum(totals[self.idle[state]], ways.max(axis=(0, 1), initial=0.0))
        return totals

    def _ways(self, rates: F64, totals: F64, state: int) -> F64:
        """[option, N, units + 1]: sums of rates for a state; minus infinity without enough streams."""
        inside, rest = self.options[state]
        left = np.arange(self.num_units + 1) - self.cost[:, np.newaxis]
        ways = rates[inside][:, :, np.newaxis] + totals[rest][:, np.maximum(left, 0)]
        return np.where(left >= 0, ways, -np.inf)

"""The best single pipeline: the one with the shortest period, and all that trade latency (sum) for period.

Exact, in two steps for each number of stages. First the smallest limit of a stage with which all blocks can be covered
at all (`coverage`), a bisection over the distinct times. It ignores hops and sums, so it is a lower bound on the
period, and the pipeline found with it often has just that period. Only if its bound is better than the best pipeline so
far, the exact program (`least_sum`) decides: the least sum never grows with the limit while m times the limit does, so
the period is smallest where the two cross, another bisection.

If times are only lower bounds, the best pipeline by the bounds is timed exactly. If it takes longer than its bounds,
the search is repeated with its exact times; a pipeline that takes just as long as its bounds is the best.

Fleets with more states than `MAX_STATES` are searched by `beam` instead, which is not exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from shoal.arrays import I64
from shoal.planner.search.beam import beam_replica
from shoal.planner.search.coverage import Covering, covering, least_floor, least_limit
from shoal.planner.search.fleet_states import FleetStates, count_states, fleet_states
from shoal.planner.search.least_sum import least_sum_bound, least_sums
from shoal.planner.search.pipeline import Pipeline, micro_batches, timed_pipeline
from shoal.planner.search.problem import ReplicaProblem, StageTimes

MAX_STATES = 1024
"""The most states with which the search is exact: ten workers that are all different."""

SAME = 1e-9
"""Relative difference up to which periods count as equal: sums of doubles in another order differ by less."""


def is_exact(problem: ReplicaProblem) -> bool:
    """Whether the fleet is small enough for an exact search."""
    return count_states(problem) <= MAX_STATES


def best_replica(
    problem: ReplicaProblem, num_streams: int, *, at_least_s: Sequence[float] | None = None
) -> Pipeline | None:
    """Find the pipeline with the shortest period for so many streams; None if nothing fits.

    Ties go to the fewest workers, then to the fewest stages, then to the first in the order of used workers by class
    and of groups from the last stage to the first.

    Args:
        problem: workers and times.
        num_streams: the streams of this replica, >= 1.
        at_least_s: lower bounds on the slowest of 1, 2, ... stages, as far as they are known; None: not known. They
            make the search faster and do not change its result.
    """
    if not is_exact(problem):
        return beam_replica(problem, num_streams)
    while found := _best_by_bounds(problem, num_streams, at_least_s):
        exact = timed_pipeline(problem, found.stages, num_streams)
        if exact.period_s <= found.period_s * (1 + SAME):
            return exact
        problem = _raised(problem, found)
    return None


def _raised(problem: ReplicaProblem, pipeline: Pipeline) -> ReplicaProblem:
    """The problem with the exact times of a pipeline's stages."""
    stages = [(stage.group, stage.first, stage.last) for stage in pipeline.stages]

    @cache
    def times(rows: int) -> StageTimes:
        given = problem.times(rows)
        return given.raised(stages) if rows == pipeline.rows else given

    return replace(problem, times=times)


def _best_by_bounds(problem: ReplicaProblem, num_streams: int, at_least_s: Sequence[float] | None) -> Pipeline | None:
    """`best_replica` with lower bounds taken as exact times."""
    search = _Search.of(problem)
    at_least_s = [0.0] * problem.stage_limit if at_least_s is None else at_least_s
    shapes = [
        _Shape.of(search, num_stages, num_streams, at_least_s[num_stages - 1])
        for num_stages in range(1, problem.stage_limit + 1)
    ]
    best: Pipeline | None = None
    bounds: list[tuple[float, _Shape]] = []
    for shape in shapes:
        period_s = np.inf if best is None else best.period_s
        bound_s, found = _cover(search, shape, period_s * (1 - SAME), num_streams)
        bounds.append((bound_s, shape))
        if found is not None and found.period_s < period_s:
            best = found
    for bound_s, shape in sorted(bounds, key=lambda bound: bound[0]):
        period_s = np.inf if best is None else best.period_s
        if bound_s < period_s * (1 - SAME):
            best = _improve(search, shape, best, bound_s=bound_s, num_streams=num_streams)
    return None if best is None else search.told(_fewest_workers(search, shapes, best))


def replica_front(problem: ReplicaProblem, num_streams: int, *, step: float = 0.0) -> tuple[Pipeline, ...]:
    """The Pareto front of pipelines by latency (`sum_s`) and throughput (m times `longest_s`).

    Args:
        problem: workers and times, with few enough workers for an exact search.
        num_streams: the number of streams, >= 1.
        step: the least relative improvement of throughput from one pipeline to the next of as many stages; 0: all.

    Returns:
        The pipelines by ascending sum.
    """
    search = _Search.of(problem)
    found: list[Pipeline] = []
    for num_stages in range(1, problem.stage_limit + 1):
        shape = _Shape.of(search, num_stages, num_streams)
        limit = np.inf
        while True:
            sums = least_sums(search.states, shape.times, num_stages, limit)
            if sums.least_s == np.inf:
                break
            found.append(timed_pipeline(search.problem, sums.stages(sums.least_s), num_streams))
            limit = float(np.nextafter(found[-1].longest_s * (1 - step), 0.0))
    return tuple(map(search.told, _non_dominated(found)))


def _non_dominated(pipelines: list[Pipeline]) -> tuple[Pipeline, ...]:
    """The pipelines that no other one dominates. Values that differ by no more than SAME count as equal."""
    front: list[Pipeline] = []
    for pipeline in sorted(pipelines, key=lambda pipeline: (pipeline.sum_s, _round_s(pipeline), pipeline.num_workers)):
        if front and _round_s(pipeline) >= _round_s(front[-1]) * (1 - SAME):
            continue
        if front and pipeline.sum_s <= front[-1].sum_s * (1 + SAME):
            front.pop()
        front.append(pipeline)
    return tuple(front)


def _round_s(pipeline: Pipeline) -> float:
    return pipeline.num_micro_batches * pipeline.longest_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Search:
    problem: ReplicaProblem
    """The compact problem."""
    states: FleetStates
    group_ids: I64
    """The index of each group in the original problem."""

    @staticmethod
    def of(problem: ReplicaProblem) -> _Search:
        compact, group_ids = problem.by_bounds().compact()
        return _Search(problem=compact, states=fleet_states(compact), group_ids=group_ids)

    def told(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with the group indices of the original problem."""
        stages = [replace(stage, group=int(self.group_ids[stage.group])) for stage in pipeline.stages]
        return replace(pipeline, stages=tuple(stages))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shape:
    """A number of stages, with the values that follow from it."""

    num_stages: int
    num_micro_batches: int
    times: StageTimes
    at_least_s: float
    """A lower bound on the seconds of the slowest stage."""

    @staticmethod
    def of(search: _Search, num_stages: int, num_streams: int, at_least_s: float = 0.0) -> _Shape:
        num_micro_batches, rows = micro_batches(num_stages, num_streams)
        times = search.problem.times(rows)
        return _Shape(
            num_stages=num_stages,
            num_micro_batches=num_micro_batches,
            times=times,
            at_least_s=max(at_least_s, least_floor(times.work_s)),
        )


def _cover(search: _Search, shape: _Shape, below_s: float, num_streams: int) -> tuple[float, Pipeline | None]:
    """A lower bound on the period of pipelines of a shape, and one that may reach it; (infinite, None) if none is below
    below_s."""
    ceiling = below_s / shape.num_micro_batches
    if shape.at_least_s > ceiling:
        return np.inf, None
    sum_bound_s = least_sum_bound(shape.times, shape.num_stages, ceiling)
    if sum_bound_s >= below_s:
        return np.inf, None
    limit = least_limit(search.states, shape.times.work_s, shape.num_stages, ceiling, shape.at_least_s)
    if limit is None:
        return np.inf, None
    cover = covering(search.states, shape.times.work_s, shape.num_stages, limit)
    stages = cover.stages(int(cover.complete[0]))
    found = None if stages is None else timed_pipeline(search.problem, stages, num_streams)
    return max(sum_bound_s, shape.num_micro_batches * limit), found


def _improve(
    search: _Search, shape: _Shape, best: Pipeline | None, *, bound_s: float, num_streams: int
) -> Pipeline | None:
    """The better one of `best` and the best pipeline of this shape.

    Let F(limit) be the least sum. No pipeline of the shape has a period below min(F, m * limit), since those within the
    limit have at least F and the others at least m * limit; and one within the limit has at most max(F, m * limit).
    """
    m = shape.num_micro_batches
    low_s, high_s = bound_s, np.inf if best is None else best.period_s * (1 - SAME)
    limit, solved = high_s / m, 0.0
    values = np.concatenate([shape.times.work_s.reshape(-1), shape.times.hop_s.reshape(-1)])
    while True:
        sums = least_sums(search.states, shape.times, shape.num_stages, limit)
        if sums.least_s < high_s:
            found = timed_pipeline(search.problem, sums.stages(sums.least_s), num_streams)
            if found.period_s < high_s:
                best, high_s = found, found.period_s * (1 - SAME)
        if sums.least_s >= m * limit:
            solved = limit
        low_s = max(low_s, min(sums.least_s, m * limit))
        values = values[(values > solved) & (values * m < high_s)]
        if not len(values):
            return best
        between = values[values * m > low_s]
        limit = float(np.partition(between, len(between) // 2)[len(between) // 2] if len(between) else values.max())


def _fewest_workers(search: _Search, shapes: list[_Shape], best: Pipeline) -> Pipeline:
    """The pipeline with the same period as `best`, the fewest workers and then the fewest stages."""
    within_s = best.period_s * (1 + SAME)
    for shape in shapes:
        limit = within_s / shape.num_micro_batches
        cover = covering(search.states, shape.times.work_s, shape.num_stages, limit)
        fewest = (int(search.states.num_workers[cover.complete[:1]].sum()), shape.num_stages)
        if not len(cover.complete) or fewest >= (best.num_workers, len(best.stages)):
            continue
        found = _with_fewest_workers(search, shape, cover, within_s=within_s, num_streams=best.num_streams)
        if found is not None and (found.num_workers, len(found.stages)) < (best.num_workers, len(best.stages)):
            best = found
    return best


def _with_fewest_workers(
    search: _Search, shape: _Shape, cover: Covering, *, within_s: float, num_streams: int
) -> Pipeline | None:
    """The pipeline of this shape with the fewest workers and a period of at most within_s: from the covering if that
    suffices, otherwise by the exact search."""
    limit = within_s / shape.num_micro_batches
    if least_sum_bound(shape.times, shape.num_stages, limit) > within_s:
        return None
    stages = cover.stages(int(cover.complete[0]))
    if stages is not None:
        found = timed_pipeline(search.problem, stages, num_streams)
        if found.period_s <= within_s:
            return found
    sums = least_sums(search.states, shape.times, shape.num_stages, limit)
    if sums.least_s > within_s:
        return None
    return timed_pipeline(search.problem, sums.stages(within_s), num_streams)

"""One replica from a large fleet: a beam search over stages. Not exact.

For a number of stages and a limit on the time of each, stages are placed on groups one after the other, and only the
partial pipelines that cover the most blocks are kept. If middle blocks are alike and hops are short, the order of the
groups hardly matters and the beam keeps what a knapsack would; in any case the result is a valid pipeline. The limit is
bisected on a grid, and numbers of stages that could not be better even with unlimited workers are left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoal.arrays import F64, I64
from shoal.planner.search.coverage import reach
from shoal.planner.search.least_sum import least_sum_bound
from shoal.planner.search.pipeline import Pipeline, PlacedStage, micro_batches, timed_pipeline
from shoal.planner.search.problem import ReplicaProblem, StageTimes

_WIDTH = 32
"""Partial pipelines that are kept. Source: twice as many found nothing better in `benchmarks/planner_search.py`."""
_LOOKED_AT = 8 * _WIDTH
"""The best partial pipelines, of which those that lead to the same state are dropped."""
_PRECISION = 2e-3
"""Relative difference below which limits count as equal."""


def beam_replica(problem: ReplicaProblem, num_streams: int) -> Pipeline | None:
    """A pipeline with a short period for so many streams; None if none was found."""
    compact, group_ids = problem.compact()
    bounds = [(_bound_s(compact, count, num_streams), count) for count in range(1, compact.stage_limit + 1)]
    best: Pipeline | None = None
    for bound_s, num_stages in sorted(bounds):
        period_s = np.inf if best is None else best.period_s
        if bound_s < period_s * (1 - _PRECISION):
            found = _with_stages(compact, num_stages, num_streams, low_s=bound_s, high_s=period_s)
            best = found if found is not None and found.period_s < period_s else best
    if best is None:
        return None
    return replace(best, stages=tuple(replace(stage, group=int(group_ids[stage.group])) for stage in best.stages))


def _bound_s(problem: ReplicaProblem, num_stages: int, num_streams: int) -> float:
    """A lower bound on the period of pipelines of so many stages, as with unlimited workers, by bisection on a grid."""
    num_micro_batches, rows = micro_batches(num_stages, num_streams)
    times = problem.times(rows)
    stage_s = times.work_s.min(axis=0, initial=np.inf)
    finite = stage_s[stage_s < np.inf]
    if not len(finite):
        return np.inf
    limits: F64 = np.geomspace(float(finite.min()), float(finite.max()), 256)
    farthest = reach(stage_s[np.newaxis], limits)[0].T
    covered = np.zeros(len(limits), np.int64)
    for _ in range(num_stages):
        covered = farthest[np.arange(len(limits)), covered]
    index = int(np.searchsorted(covered, problem.num_blocks))
    if index == len(limits):
        return np.inf
    return max(least_sum_bound(times, num_stages), num_micro_batches * float(limits[max(0, index - 1)]))


def _with_stages(
    problem: ReplicaProblem, num_stages: int, num_streams: int, *, low_s: float, high_s: float
) -> Pipeline | None:
    """The best pipeline that bisection finds with exactly so many stages and a period in low_s to high_s."""
    num_micro_batches, rows = micro_batches(num_stages, num_streams)
    times = problem.times(rows)
    low, high = low_s / num_micro_batches, high_s / num_micro_batches
    if high == np.inf:
        high = float(times.work_s[times.work_s < np.inf].max(initial=low))
    best: Pipeline | None = None
    limit = high * (1 - _PRECISION) if high_s < np.inf else high
    while limit >= low:
        stages = _stages_within(problem, times, num_stages, limit)
        if stages is None:
            low = limit
        else:
            found = timed_pipeline(problem, stages, num_streams)
            best = found if best is None or found.period_s < best.period_s else best
            high = min(limit, found.longest_s)
        if high <= low * (1 + _PRECISION):
            break
        limit = float(np.sqrt(low * high)) if low > 0 else high / 2
    return best


def _stages_within(
    problem: ReplicaProblem, times: StageTimes, num_stages: int, limit: float
) -> tuple[PlacedStage, ...] | None:
    """Find stages and hops of at most `limit` seconds that cover all blocks; None if there are none.

    Shapes: W partial pipelines, G groups, C classes.
    """
    farthest = reach(times.work_s, np.array([limit]))[:, :, 0]
    longest_stage = _longest(farthest)
    linked = times.hop_s <= limit
    uses = np.array(problem.groups)
    needs = _needs(uses)
    left_WC, covered_W, last_W = np.array([problem.counts]), np.zeros(1, np.int64), np.full(1, -1)
    history: list[tuple[I64, I64, I64]] = []
    for stage in range(num_stages):
        if covered_W[0] + (num_stages - stage) * longest_stage < problem.num_blocks:
            return None
        fits_WG = np.all([left_WC[:, classes] >= counts for classes, counts in needs], axis=0)
        if history:
            fits_WG &= linked[last_W]
        ways, groups = np.nonzero(fits_WG)
        if not len(ways):
            return None
        blocks = farthest[groups, covered_W[ways]]
        kept = _best_ways(left_WC, uses, ways, groups, blocks)
        ways, groups = ways[kept], groups[kept]
        left_WC, covered_W, last_W = left_WC[ways] - uses[groups], blocks[kept], groups
        history.append((ways, groups, covered_W))
    if covered_W[0] < problem.num_blocks:
        return None
    return _spell_out(history, problem.num_blocks)


def _longest(farthest: I64) -> int:
    """Blocks of the longest stage. `farthest`: [group, first]."""
    places: I64 = np.arange(int(farthest.shape[1]))
    lengths: I64 = farthest - places
    return int(lengths.max())


def _needs(uses: I64) -> list[tuple[I64, I64]]:
    """For each group a class that it uses and the number of workers, then a second class, and so on. `uses`: [group,
    class]. There are few such arrays even with many classes."""
    by_use = np.argsort(-uses, axis=1, kind="stable")
    most = int((uses > 0).sum(axis=1).max())
    rows = np.arange(len(uses))
    return [(by_use[:, place], uses[rows, by_use[:, place]]) for place in range(most)]


def _best_ways(left_WC: I64, uses: I64, ways: I64, groups: I64, blocks: I64) -> I64:
    """Positions of the extensions that cover the most blocks with the fewest workers, one for each state.

    Args:
        left_WC: workers that are left before this stage.
        uses: [group, class] workers of each group. ways, groups, blocks: for each extension: the partial pipeline that
        it continues, its group, the blocks covered.
    """
    num_left = left_WC.sum(axis=1)[ways] - uses.sum(axis=1)[groups]
    ranks = -(blocks * (num_left.max() + 1) + num_left) * len(uses) + groups
    if len(ranks) > _LOOKED_AT:
        good = np.flatnonzero(ranks <= np.partition(ranks, _LOOKED_AT - 1)[_LOOKED_AT - 1])
    else:
        good = np.arange(len(ranks))
    order = good[np.argsort(ranks[good], kind="stable")][:_LOOKED_AT]
    states = np.column_stack([left_WC[ways[order]] - uses[groups[order]], groups[order]])
    first_of_state: dict[bytes, int] = {}
    for position, state in zip(order.tolist(), states, strict=True):
        first_of_state.setdefault(state.tobytes(), position)
        if len(first_of_state) == _WIDTH:
            break
    return np.array(list(first_of_state.values()), np.int64)


def _spell_out(history: list[tuple[I64, I64, I64]], num_blocks: int) -> tuple[PlacedStage, ...]:
    """Trace the first pipeline back; each stage leaves at least one block for every later stage."""
    way = 0
    groups: list[int] = []
    lasts: list[int] = []
    for ways, chosen, covered in reversed(history):
        lasts.append(min(int(covered[way]), num_blocks - len(groups)))
        groups.append(int(chosen[way]))
        way = int(ways[way])
    firsts = [*lasts[1:], 0]
    stages = [
        PlacedStage(group=group, first=first, last=last)
        for group, first, last in zip(groups, firsts, lasts, strict=True)
    ]
    return tuple(reversed(stages))

"""The quickest way of one wave through a pipeline whose stages and hops each take no longer than a limit.

Exact: dynamic programming over ordered cuts. The state is the workers used by class, the group of the last stage and
the blocks that are done; stage by stage, min-plus products with the table of each group's times. Only the blocks
between "needed to finish at all" and "reachable at all" (`coverage`) are looked at, which is what makes it quick near
the optimum.

Source: the form of the programme is that of PipeDream's partitioning (arXiv 1806.03377, section 3.1), with unlike
workers in the state and the sum in place of the maximum; the maximum is the limit.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from shoal.arrays import F64, I64, Bools
from shoal.planner.search.coverage import covered, needed, reach, reach_back
from shoal.planner.search.fleet_states import FleetStates, Layer
from shoal.planner.search.pipeline import PlacedStage
from shoal.planner.search.problem import StageTimes

_CHUNK = 1 << 19
"""Sums computed at once: 4 MiB of doubles, about what a core's cache holds. Source: `benchmarks/planner_search.py`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """Pipelines of s stages, by their last step. Shapes: [Q] steps, L blocks."""

    before: I64
    group: I64
    after: I64
    sum_s: F64
    """[Q, L + 1]: least seconds with so many blocks done"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeastSums:
    """All that is needed to spell out the best pipelines of a certain number of stages."""

    states: FleetStates
    work_s: F64
    """infinite above the limit"""
    hop_s: F64
    """infinite above the limit"""
    rows: list[_Row]
    """of the first stage, the second, ...; empty where no pipeline exists"""

    @property
    def least_s(self) -> float:
        """Of all pipelines; infinite where there is none."""
        return float(self._complete_s().min(initial=np.inf))

    def stages(self, at_most_s: float) -> tuple[PlacedStage, ...]:
        """The pipeline with the fewest workers among those that take at most so long, of these the quickest.

        Valid only where `at_most_s` is not less than `least_s` and that is finite.
        """
        sums = self._complete_s()
        num_workers = self.states.num_workers[self.rows[-1].after]
        index = int(np.lexsort((sums, num_workers, sums > at_most_s))[0])
        return self._spell_out(index)

    def _complete_s(self) -> F64:
        return self.rows[-1].sum_s[:, -1] if self.rows else np.zeros(0)

    def _spell_out(self, index: int) -> tuple[PlacedStage, ...]:
        last = self.work_s.shape[1] - 1
        stages: list[PlacedStage] = []
        for stage in reversed(range(len(self.rows))):
            row = self.rows[stage]
            group = int(row.group[index])
            if stage == 0:
                return (PlacedStage(group=group, first=0, last=last), *reversed(stages))
            earlier = self.rows[stage - 1]
            steps = np.flatnonzero(earlier.after == row.before[index])
            ways = earlier.sum_s[steps] + self.hop_s[earlier.group[steps], group][:, np.newaxis]
            ways = ways + self.work_s[group, :, last]
            way, first = np.unravel_index(int(ways.argmin()), ways.shape)
            stages.append(PlacedStage(group=group, first=int(first), last=last))
            index, last = int(steps[way]), int(first)
        raise AssertionError("a pipeline without stages")


def least_sum_bound(times: StageTimes, num_stages: int, limit: float = np.inf) -> float:
    """No pipeline of so many stages is quicker: the shortest path over the blocks, were there groups without end."""
    return least_sum_bounds(times, num_stages, limit)[-1]


def least_sum_bounds(times: StageTimes, most_stages: int, limit: float = np.inf) -> list[float]:
    """`least_sum_bound` of 1, 2, ... stages."""
    stage_s = times.work_s.min(axis=0, initial=np.inf)
    stage_s = np.where(stage_s <= limit, stage_s, np.inf)
    hop_s = float(times.hop_s.min(initial=np.inf))
    so_far_s = stage_s[0]
    bounds = [float(so_far_s[-1])]
    for _ in range(most_stages - 1):
        so_far_s = (so_far_s[:, np.newaxis] + stage_s).min(axis=0) + hop_s
        bounds.append(float(so_far_s[-1]))
    return bounds


def least_sums(states: FleetStates, times: StageTimes, num_stages: int, limit: float) -> LeastSums:
    """Solve for pipelines of exactly num_stages stages, each of them and each hop of at most `limit` seconds."""
    limit = min(limit, sys.float_info.max)  # an infinite time is within no limit
    work_s = np.where(times.work_s <= limit, times.work_s, np.inf)
    hop_s = np.where(times.hop_s <= limit, times.hop_s, np.inf)
    reached = reach(work_s, np.array([limit]))
    can_be = [blocks[:, 0] for blocks in covered(states, reached, num_stages)]
    farthest = reached[:, :, 0]
    must_be = needed(states, reach_back(work_s, limit), num_stages)
    rows: list[_Row] = []
    for stage in range(num_stages):
        low, high = must_be[stage + 1], can_be[stage]
        layer = _alive(states.layer(stage), farthest, low=low, high=high)
        ends = (layer.before, layer.group, layer.after)
        if stage == 0:
            sum_s = work_s[layer.group, 0]
        else:
            ends, so_far_s = _join(rows[-1], layer, hop_s)
            highest = farthest[ends[1], high[ends[0]]]
            sum_s = _add_stage(so_far_s, ends[1], work_s, low=low[ends[2]], high=highest)
        if not len(ends[0]):
            return LeastSums(states=states, work_s=work_s, hop_s=hop_s, rows=[])
        rows.append(_Row(before=ends[0], group=ends[1], after=ends[2], sum_s=sum_s))
    return LeastSums(states=states, work_s=work_s, hop_s=hop_s, rows=rows)


def _alive(layer: Layer, farthest: I64, *, low: I64, high: I64) -> Layer:
    """The steps that can cover what must be covered after them. `low`: needed after; `high`: covered before."""
    keep: Bools = farthest[layer.group, high[layer.before]] >= low[layer.after]
    before, group, after = layer.before[keep], layer.group[keep], layer.after[keep]
    return Layer(before=before, group=group, after=after, targets=layer.targets, starts=layer.starts)


def _join(row: _Row, layer: Layer, hop_s: F64) -> tuple[tuple[I64, I64, I64], F64]:
    """Each step behind all that lead to where it begins: least seconds at its door, hop included, [Q, L + 1]."""
    begin = np.searchsorted(row.after, layer.before)
    count = np.searchsorted(row.after, layer.before, "right") - begin
    step = np.repeat(np.arange(len(count)), count)
    earlier = np.arange(len(step)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)
    hops = hop_s[row.group[earlier], layer.group[step]]
    linked = hops < np.inf
    step, earlier, hops = step[linked], earlier[linked], hops[linked]
    reached, starts = np.unique(step, return_index=True)
    ends = (layer.before[reached], layer.group[reached], layer.after[reached])
    if not len(reached):
        return ends, np.zeros((0, row.sum_s.shape[1]))
    return ends, np.minimum.reduceat(row.sum_s[earlier] + hops[:, np.newaxis], starts, axis=0)


def _add_stage(so_far_s: F64, groups: I64, work_s: F64, *, low: I64, high: I64) -> F64:
    """[Q, L + 1]: least over the first block of each step's stage. `low`, `high`: ends of it worth looking at."""
    sum_s = np.full(so_far_s.shape, np.inf)
    for group in np.unique(groups):
        steps = np.flatnonzero(groups == group)
        lasts = slice(int(low[steps].min()), int(high[steps].max()) + 1)
        begun = np.flatnonzero(np.isfinite(so_far_s[steps]).any(axis=0))
        if not len(begun) or lasts.start >= lasts.stop:
            continue
        firsts = slice(int(begun[0]), int(begun[-1]) + 1)
        stage_s = work_s[group, firsts, lasts]
        chunk = max(1, _CHUNK // stage_s.size)
        for part in range(0, len(steps), chunk):
            some = steps[part : part + chunk]
            sum_s[some, lasts] = (so_far_s[some, firsts, np.newaxis] + stage_s).min(axis=1)
    return sum_s

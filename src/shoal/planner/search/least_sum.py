"""The pipeline with the least sum of stages and hops for one wave, each of which takes no longer than a limit.

Exact: dynamic programming over ordered cuts. The state consists of the workers used by class, the group of the last
stage and the blocks that are covered; each stage is a min-plus product with the table of each group's times. Only
blocks between "needed to finish" and "reachable" (`coverage`) are considered, which makes it fast near the optimum.

Source: PipeDream's partitioning (arXiv 1806.03377, section 3.1), with unlike workers in the state and the sum in place
of the maximum; the maximum is the limit.
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
"""Sums computed at once: 4 MiB of doubles, about a core's cache. Source: `benchmarks/planner_search.py`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """Pipelines of s stages by their last step. Shapes: Q steps, L blocks."""

    before: I64
    group: I64
    after: I64
    sum_s: F64
    """[Q, L + 1]: the least seconds for covering so many blocks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeastSums:
    """The solved dynamic program, from which the best pipelines of a number of stages can be traced back."""

    states: FleetStates
    work_s: F64
    """[group, first, last] seconds; infinite above the limit."""
    hop_s: F64
    """[from, to] seconds; infinite above the limit."""
    rows: list[_Row]
    """The rows of the first stage, the second, and so on; empty if no pipeline exists."""

    @property
    def least_s(self) -> float:
        """The least sum of all pipelines; infinite if there is none."""
        return float(self._complete_s().min(initial=np.inf))

    def stages(self, at_most_s: float) -> tuple[PlacedStage, ...]:
        """The pipeline with the fewest workers among those that take at most `at_most_s`, of these the fastest.

        `least_s` must be finite, and `at_most_s` no less than it.
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
    """A lower bound on the sum of pipelines of so many stages: the shortest path over the blocks with unlimited
    groups."""
    return least_sum_bounds(times, num_stages, limit)[-1]


def least_sum_bounds(times: StageTimes, most_stages: int, limit: float = np.inf) -> list[float]:
    """`least_sum_bound` for 1, 2, ... most_stages stages."""
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
    """Solve for pipelines of exactly num_stages stages, where each stage and each hop takes at most `limit` seconds."""
    limit = min(limit, sys.float_info.max)  # an infinite time exceeds every limit
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
    """The steps that can cover what is needed after them. `low`: blocks needed after; `high`: blocks covered before."""
    keep: Bools = farthest[layer.group, high[layer.before]] >= low[layer.after]
    before, group, after = layer.before[keep], layer.group[keep], layer.after[keep]
    return Layer(before=before, group=group, after=after, targets=layer.targets, starts=layer.starts)


def _join(row: _Row, layer: Layer, hop_s: F64) -> tuple[tuple[I64, I64, I64], F64]:
    """Join each step with all steps before it: [Q, L + 1] least seconds before its stage, including the hop."""
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
    """[Q, L + 1]: the minimum over the first block of each step's stage. `low`, `high`: the range of its end."""
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

"""The most valuable replica at given prices of workers and streams: columns for the configuration LP.

For a fixed number of rows r and a limit on the time of every stage and hop, a replica of S full stages advances S * r
streams every S * limit seconds: r / limit streams per second for any number of stages. The remaining problem is to
cover all blocks at the least cost, a shortest path over (blocks, group), in which each group may be used any number of
times, because the LP counts the workers. All limits of a grid are solved at once.

The grid makes the bound rigorous: a replica whose slowest stage lies between two neighbors is worth no more than at the
lower one and costs no less than at the upper one. The seconds of stages and hops are priced in two cases:

* one row: a replica may have fewer streams than stages, but by Little's law no fewer than its rate times its sum;
* full stages reach r / limit only if the sum of stages and hops is at most S * limit. A Lagrange multiplier of that
  constraint, any one that is not negative, leaves a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shoal.arrays import F64, I64
from shoal.planner.search.coverage import least_floor, reach_grid
from shoal.planner.search.pipeline import PlacedStage
from shoal.planner.search.problem import ReplicaProblem

LIMIT_RATIO = 1.01
"""Ratio of successive limits of the grid, which is the most that the bound loses. Source:
`benchmarks/planner_search.py`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriceTable:
    """The part of pricing that does not depend on prices: how far each group gets within each limit.

    Shapes: K limits, G groups, J kinds of predecessor.
    """

    rows: I64
    """[K]: rows of a micro-batch."""
    limits: F64
    """[K]: the limits in seconds."""
    lowest: F64
    """[K]: the least seconds of the slowest stage if it exceeds the previous limit."""
    farthest: I64
    """[first, K, G]: the end of the longest stage from `first` within the limit."""
    kinds: I64
    """[G]: the kind of each group as a predecessor: equal if its hops that can exceed a limit are equal."""
    hop_s: F64
    """[J, G]: seconds of hops from a kind to a group; 0 if they cannot exceed a limit."""
    work_s: F64
    """[group, first, last]: seconds of stages; empty in a table of several numbers of rows."""
    least_hop_s: F64
    """[G]: the least seconds of a hop to each group."""
    sum_s: F64
    """[K]: a lower bound on the seconds of a wave through any replica."""

    @property
    def num_blocks(self) -> int:
        return len(self.farthest) - 1

    @property
    def has_kinds(self) -> bool:
        """Whether the predecessor of a stage matters."""
        return len(self.hop_s) > 1 or self.hop_s.max(initial=0.0) > 0

    def thinned(self, every: int) -> PriceTable:
        """The table with one in `every` limits and the last one; replicas in between cost no less than at the upper."""
        kept = np.arange(every - 1, len(self.limits) + every - 1, every).clip(max=len(self.limits) - 1)
        return replace(
            self,
            rows=self.rows[kept],
            limits=self.limits[kept],
            lowest=self.lowest[::every],
            farthest=np.ascontiguousarray(self.farthest[:, kept]),
            sum_s=self.sum_s[kept],
        )

    def price(self, group_prices: F64, limits: I64, seconds_prices: F64 | None = None) -> Priced:
        """Solve for the least cost of covering all blocks.

        Shapes: K limits, G groups.

        Args:
            group_prices: [K, G] price of a stage, including its streams.
            limits: [K] indices of the limits to solve.
            seconds_prices: [K] price of a second of a stage or hop, >= 0; None: 0.
        """
        costs = np.full((len(limits), self.num_blocks + 1, len(self.hop_s)), np.inf)
        costs[:, -1] = 0.0
        priced = Priced(
            table=self, limits=limits, group_prices=group_prices, seconds_prices=seconds_prices, costs=costs
        )
        bounds = self.limits[limits][:, np.newaxis, np.newaxis]
        for first in reversed(range(self.num_blocks)):
            options = priced.options(first)
            if self.has_kinds:
                costs[:, first] = np.where(self.hop_s <= bounds, options[:, np.newaxis], np.inf).min(axis=2)
            else:
                costs[:, first] = options.min(axis=1, keepdims=True)
        return priced


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Priced:
    """Least costs at certain prices. Shapes: K limits, J kinds of predecessor, L blocks, G groups."""

    table: PriceTable
    limits: I64
    """[K]: indices of the limits that were solved."""
    group_prices: F64
    """[K, G]: price of a stage, including its streams."""
    seconds_prices: F64 | None
    """[K]: price of a second; None: 0."""
    costs: F64
    """[K, L + 1, J]: least cost of covering the remaining blocks after a predecessor of each kind."""

    @property
    def least(self) -> F64:
        """[K]: least cost of covering all blocks."""
        return self.costs[:, 0].min(axis=1)

    def options(self, first: int) -> F64:
        """[K, G]: least cost of the remaining blocks if a stage on each group begins with `first`."""
        table = self.table
        if self.seconds_prices is not None:
            return self._ways(first, slice(None)).min(axis=1)
        lasts = table.farthest[first][self.limits]
        position = np.arange(len(lasts))[:, np.newaxis]
        if not table.has_kinds:  # the longest stage is best, because the predecessor does not matter
            behind = self.costs[position, lasts, 0]  # where there is no block the cost is still infinite
        else:
            best = np.minimum.accumulate(self.costs[:, first + 1 :], axis=1)
            behind = best[position, np.maximum(lasts - first - 1, 0), table.kinds]
            behind = np.where(lasts > first, behind, np.inf)
        return behind + self.group_prices

    def stages(self, position: int) -> tuple[PlacedStage, ...]:
        """The cheapest replica at the `position`-th solved limit."""
        table, only = self.table, slice(position, position + 1)
        if self.seconds_prices is None and not table.has_kinds:
            return self._longest_stages(position)
        limit = table.limits[self.limits[position]]
        first, kind = 0, -1
        stages: list[PlacedStage] = []
        while first < table.num_blocks:
            ways = self._ways(first, only)[0]
            if kind >= 0:
                ways = np.where(table.hop_s[kind] <= limit, ways, np.inf)
            group = int(ways.min(axis=0).argmin())
            last = table.num_blocks - int(ways[::-1, group].argmin())  # the longest of equally good stages
            stages.append(PlacedStage(group=group, first=first, last=last))
            first, kind = last, int(table.kinds[group])
        return tuple(stages)

    def _longest_stages(self, position: int) -> tuple[PlacedStage, ...]:
        table, prices = self.table, self.group_prices[position]
        first = 0
        stages: list[PlacedStage] = []
        while first < table.num_blocks:
            lasts = table.farthest[first, self.limits[position]]
            behind = np.where(lasts > first, self.costs[position, lasts, 0], np.inf)
            group = int((behind + prices).argmin())
            stages.append(PlacedStage(group=group, first=first, last=int(lasts[group])))
            first = int(lasts[group])
        return tuple(stages)

    def _ways(self, first: int, positions: slice) -> F64:
        """[K, last, G]: cost of the remaining blocks if the next stage is first:last on each group; last > first."""
        table = self.table
        stage_s = table.work_s[:, first, first + 1 :].T
        behind = self.costs[positions, first + 1 :]
        ways = (behind if len(table.hop_s) == 1 else behind[:, :, table.kinds]) + self.group_prices[
            positions, np.newaxis
        ]
        if self.seconds_prices is not None:
            seconds = np.where(stage_s < np.inf, stage_s, 0.0) + (table.least_hop_s if first else 0.0)
            ways += self.seconds_prices[positions, np.newaxis, np.newaxis] * seconds
        return np.where(stage_s <= table.limits[self.limits[positions], np.newaxis, np.newaxis], ways, np.inf)


def price_table(problem: ReplicaProblem, rows: int) -> PriceTable | None:
    """The table for one number of rows; None if nothing fits.

    Args:
        problem: the problem, compact.
        rows: rows of a micro-batch.
    """
    times = problem.times(rows)
    floor = least_floor(times.work_s)
    if floor == np.inf:
        return None
    most = float(times.work_s.max(where=np.isfinite(times.work_s), initial=0.0))
    num_limits = int(np.log(most / floor) / np.log(LIMIT_RATIO)) + 2 if most > floor else 1
    limits: F64 = floor * np.power(LIMIT_RATIO, np.arange(num_limits, dtype=np.float64))
    limits[-1] = max(limits[-1], most)
    binding_s = np.where(times.hop_s <= floor, 0.0, times.hop_s)  # the others are within every limit
    kinds_s, kinds = np.unique(binding_s, axis=0, return_inverse=True)
    return PriceTable(
        rows=np.full(num_limits, rows),
        limits=limits,
        lowest=np.concatenate([[floor], limits[:-1]]),
        farthest=np.ascontiguousarray(reach_grid(times.work_s, limits).transpose(1, 2, 0), np.int64),
        kinds=kinds.reshape(-1).astype(np.int64),
        hop_s=kinds_s,
        work_s=times.work_s,
        least_hop_s=times.hop_s.min(axis=0),
        sum_s=np.full(num_limits, _shortest_way(times.work_s.min(axis=0))),
    )


def stacked(tables: Sequence[PriceTable]) -> PriceTable:
    """Stack tables, at least one and all without `has_kinds`, into one that is priced at once."""
    return replace(
        tables[0],
        rows=np.concatenate([table.rows for table in tables]),
        limits=np.concatenate([table.limits for table in tables]),
        lowest=np.concatenate([table.lowest for table in tables]),
        farthest=np.concatenate([table.farthest for table in tables], axis=1),
        work_s=np.zeros((0, 0, 0)),
        sum_s=np.concatenate([table.sum_s for table in tables]),
    )


def _shortest_way(stage_s: F64) -> float:
    """The shortest path through all blocks in any number of stages, without hops. `stage_s`: [first, last]."""
    so_far_s = np.zeros(len(stage_s))
    for last in range(1, len(stage_s)):
        so_far_s[last] = (so_far_s[:last] + stage_s[:last, last]).min()
    return float(so_far_s[-1])

"""The replica that is worth most when workers and streams have prices: columns for the configuration LP.

For a fixed number of rows r and a limit on the time of every stage and hop, a replica of S full stages advances S * r
streams every S * limit seconds: r / limit streams per second, however many stages it has. What is left is to cover
all blocks at the least cost, a shortest path over (blocks, group): each group may be taken as often as one likes, for
the LP counts the workers. All limits of a grid are solved at once.

The grid makes the bound rigorous: a replica whose slowest stage lies between two neighbours is worth no more than at
the lower one and costs no less than at the upper one. Two more things are weighed by the seconds of stages and hops:

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
"""One limit of the grid over the one before: what the bound loses at most. Source: `benchmarks/planner_search.py`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriceTable:
    """What does not depend on prices: how far each group gets within each limit.

    Shapes: K limits, G groups, J kinds of predecessor.
    """

    rows: I64
    """[K] of a micro-batch"""
    limits: F64
    """[K]"""
    lowest: F64
    """[K]: what the slowest stage takes at least if it does not come within the limit before"""
    farthest: I64
    """[first, K, G]"""
    kinds: I64
    """[G]: groups are of one kind if their hops to all others are alike, as far as they can exceed a limit"""
    hop_s: F64
    """[J, G] from a kind to a group, as far as it can exceed a limit"""
    work_s: F64
    """[group, first, last]; empty in a table of several numbers of rows"""
    least_hop_s: F64
    """[G] to each group from any other"""
    sum_s: F64
    """[K]: no replica is quicker through"""

    @property
    def num_blocks(self) -> int:
        return len(self.farthest) - 1

    @property
    def has_kinds(self) -> bool:
        """Whether it matters what came before a stage."""
        return len(self.hop_s) > 1 or self.hop_s.max(initial=0.0) > 0

    def thinned(self, every: int) -> PriceTable:
        """With one limit in so many, and the last: what is between two of them costs no less than the upper one."""
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
        """Least cost of covering all blocks.

        Shapes: K limits, G groups.

        Args:
            group_prices: [K, G] of a stage, streams included.
            limits: [K] indexes of those to solve.
            seconds_prices: [K] of a second of a stage or a hop, >= 0; None: 0.
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
    """Least costs for certain prices. Shapes: K limits, J kinds of predecessor, L blocks, G groups."""

    table: PriceTable
    limits: I64
    """[K] indexes of the limits that were solved"""
    group_prices: F64
    """[K, G]"""
    seconds_prices: F64 | None
    """[K]"""
    costs: F64
    """[K, L + 1, J]: of covering the rest behind a predecessor of that kind"""

    @property
    def least(self) -> F64:
        """[K]: of covering all blocks."""
        return self.costs[:, 0].min(axis=1)

    def options(self, first: int) -> F64:
        """[K, G]: least cost of the rest if a stage of each group begins with `first`."""
        table = self.table
        if self.seconds_prices is not None:
            return self._ways(first, slice(None)).min(axis=1)
        lasts = table.farthest[first][self.limits]
        position = np.arange(len(lasts))[:, np.newaxis]
        if not table.has_kinds:  # the longest stage is best: nothing depends on what came before
            behind = self.costs[position, lasts, 0]  # where there is no block the cost is still infinite
        else:
            best = np.minimum.accumulate(self.costs[:, first + 1 :], axis=1)
            behind = best[position, np.maximum(lasts - first - 1, 0), table.kinds]
            behind = np.where(lasts > first, behind, np.inf)
        return behind + self.group_prices

    def stages(self, position: int) -> tuple[PlacedStage, ...]:
        """The cheapest replica for the position-th of the solved limits."""
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
            last = table.num_blocks - int(ways[::-1, group].argmin())  # of equal ones the longest stage
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
        """[K, last, G]: cost of the rest if the next stage is first:last on each group, last from first + 1 on."""
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
    """Of one number of rows; None where nothing fits.

    Args:
        problem: compact.
        rows: of a micro-batch.
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
    """One table of several, to be priced at once. `tables`: at least one; of none of them `has_kinds`."""
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
    """Through all blocks in any number of stages, hops left out. `stage_s`: [first, last]."""
    so_far_s = np.zeros(len(stage_s))
    for last in range(1, len(stage_s)):
        so_far_s[last] = (so_far_s[:last] + stage_s[:last, last]).min()
    return float(so_far_s[-1])

"""How many replicas of each kind: the configuration LP, its bound, and its integer solution.

A column is a replica: the workers of each class that it uses, its streams, the streams per second that it advances.
The LP takes any multiple of any column within the counts of workers and streams. There are far too many columns to
write down, so they are generated: solve with some, take the duals as prices, look for replicas that are worth more
than they cost (`pricing`), until there is none. If at any prices no replica is worth more than `ratio` times its
cost, then no plan exceeds ratio times what all workers and streams cost: that is the bound, and it does not depend on
how well the LP was solved. HiGHS then chooses whole numbers of the columns.

Source: Gilmore and Gomory, A linear programming approach to the cutting-stock problem, Operations Research 9 (1961);
the bound: Farley, A note on bounding a class of linear programming problems, Operations Research 38 (1990); HiGHS:
Huangfu and Hall, Parallelizing the dual revised simplex method, Mathematical Programming Computation 10 (2018).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.arrays import F64, I64
from shoal.planner.search.highs import least_cost, linear_prices
from shoal.planner.search.pipeline import Pipeline, PlacedStage, timed_pipeline
from shoal.planner.search.pricing import Priced, PriceTable, price_table, stacked
from shoal.planner.search.problem import ReplicaProblem

_TOLERANCE = 2e-3
"""Replicas that are worth less than this part more than they cost are not looked for."""
_REFINED = 5e-3
"""Only those worth this part more than they cost are weighed by the seconds of their stages and hops."""
_COARSE = 16
"""Of the limits, one in so many is priced until that finds no more columns."""
_ROUNDS = 60
_SECONDS_PRICES = (0.2, 0.8)
_EVEN_PARTS = (0.02, 0.1, 0.3, 1.0)
"""Of prices that all workers share evenly, tried for a bound where the LP's own give none."""
_INTEGER_GAP = 2e-3
"""How far below the LP of its own columns HiGHS may stop."""
_NODES = 2000
"""Of HiGHS' tree; not seconds, so that the same input gives the same plan."""


@dataclass(slots=True, kw_only=True, eq=False)
class Configuration:
    """The LP with the columns so far."""

    problem: ReplicaProblem
    """compact"""
    num_streams: int
    columns: dict[tuple[tuple[PlacedStage, ...], int], Pipeline] = field(
        default_factory=dict[tuple[tuple[PlacedStage, ...], int], Pipeline]
    )

    def add(self, stages: tuple[PlacedStage, ...], rows: int) -> bool:
        """A replica of these stages, once with as many streams as fill them and once with as many as they need.

        Returns:
            Whether there is a new column.
        """
        if len(stages) > self.problem.stage_limit:
            return False
        full = min(self.num_streams, len(stages) * rows)
        added = self._add(stages, full)
        if rows == 1 and added:
            pipeline = self.columns[stages, full]
            enough = int(np.ceil(pipeline.sum_s / pipeline.longest_s))
            self._add(stages, min(full, max(1, enough)))
            self._add(stages, min(full, max(1, enough - 1)))
        return added

    def _add(self, stages: tuple[PlacedStage, ...], num_streams: int) -> bool:
        if (stages, num_streams) in self.columns:
            return False
        pipeline = timed_pipeline(self.problem, stages, num_streams)
        if pipeline.period_s == np.inf:
            return False
        self.columns[stages, num_streams] = pipeline
        return True

    def fits(self, pipeline: Pipeline) -> bool:
        """Whether there are as many workers; the LP may use a part of a replica for which there are not."""
        return all(use <= count for use, count in zip(pipeline.used, self.problem.counts, strict=True))

    def matrix(self, pipelines: Collection[Pipeline]) -> tuple[F64, F64, F64]:
        """Streams per second of each column; what it takes of each class and of the streams; what there is of these."""
        rates = np.array([pipeline.streams_per_s for pipeline in pipelines])
        takes = np.array([(*pipeline.used, pipeline.num_streams) for pipeline in pipelines], np.float64).T
        return rates, takes, np.array([*self.problem.counts, self.num_streams], np.float64)

    def value(self) -> float:
        """Of the LP."""
        have = np.array([*self.problem.counts, self.num_streams], np.float64)
        return float(self.prices() @ have)

    def prices(self) -> F64:
        """Duals of the LP: of a worker of each class, and of a stream."""
        return linear_prices(*self.matrix(self.columns.values()))

    def whole(self) -> list[Pipeline]:
        """Whole numbers of columns with as many streams per second as HiGHS finds."""
        pipelines = [pipeline for pipeline in self.columns.values() if self.fits(pipeline)]
        if not pipelines:
            return []
        rates, takes, have = self.matrix(pipelines)
        counts = least_cost(
            -rates / rates.max(),
            rows=(takes, np.full(len(have), -np.inf), have),
            bounds=(np.zeros(len(rates)), np.full(len(rates), np.inf)),
            whole=np.ones(len(rates), np.int64),
            relative_gap=_INTEGER_GAP,
            max_nodes=_NODES,
        )
        if counts is None:
            return []
        return [pipeline for pipeline, count in zip(pipelines, np.rint(counts), strict=True) for _ in range(int(count))]


def generate_columns(configuration: Configuration, rows: Sequence[int]) -> float:
    """Add columns until none is worth more than it costs.

    Args:
        configuration: gets the columns.
        rows: of micro-batches that replicas may have.

    Returns:
        Streams per second that no plan exceeds with these rows; 0: nothing fits.
    """
    _add_copies(configuration, rows)
    tables = [table for count in rows if (table := price_table(configuration.problem, count)) is not None]
    if configuration.problem.stage_limit == 1 or not tables:
        return configuration.value() if configuration.columns else 0.0
    boards = _boards([table.thinned(_COARSE) for table in tables])
    have = np.array([*configuration.problem.counts, configuration.num_streams], np.float64)
    market = Market(configuration=configuration, prices=np.append(np.ones(len(have) - 1), 0.0), at_least=0.0)
    for board in boards:
        market.trade(board)
    bound = np.inf if configuration.columns else 0.0
    for _ in range(_ROUNDS if configuration.columns else 0):
        market = Market(configuration=configuration, prices=configuration.prices())
        outcomes = [market.trade(board) for board in boards]
        if not any(added for added, _ in outcomes):
            worth = {
                int(rows): at_most[board.rows == rows]
                for board, (_, at_most) in zip(boards, outcomes, strict=True)
                for rows in np.unique(board.rows)
            }
            outcomes = [market.trade_finely(table, worth) for table in tables]
            bound = min(bound, max(ratio for _, ratio in outcomes) * float(market.prices @ have))
        if not any(added for added, _ in outcomes):
            break
    return _least_bound(configuration, tables) if bound == np.inf else bound


def _least_bound(configuration: Configuration, tables: Sequence[PriceTable]) -> float:
    """What no plan exceeds by two arguments that need no good prices: where the LP's are 0 for all the workers of some
    replica, which it may take more often than there are workers, they bound nothing.

    No stream is quicker than through the quickest stages; and prices that are spread over all workers are not 0.
    """
    bound = configuration.num_streams / min(float(table.sum_s.min()) for table in tables)
    have = np.array([*configuration.problem.counts, configuration.num_streams], np.float64)
    prices = configuration.prices()
    even = float(prices @ have) / float(have[:-1].sum())
    for part in _EVEN_PARTS:
        spread = (1 - part) * prices + part * even * np.append(np.ones(len(have) - 1), 0.0)
        market = Market(configuration=configuration, prices=spread)
        ratio = max(market.trade_finely(table, market.worth_of(table))[1] for table in tables)
        bound = min(bound, ratio * float(spread @ have))
    return bound


def _add_copies(configuration: Configuration, rows: Sequence[int]) -> None:
    """Replicas of one stage, of every group that holds the whole model."""
    num_blocks = configuration.problem.num_blocks
    for count in rows:
        whole_s = configuration.problem.times(count).work_s[:, 0, num_blocks]
        for group in np.flatnonzero(whole_s < np.inf):
            configuration.add((PlacedStage(group=int(group), first=0, last=num_blocks),), count)


def _boards(tables: Sequence[PriceTable]) -> list[PriceTable]:
    """As few tables as can be: those in which it does not matter what came before a stage become one."""
    plain = [table for table in tables if not table.has_kinds]
    return [*([stacked(plain)] if plain else []), *(table for table in tables if table.has_kinds)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """Prices at which replicas are looked for."""

    configuration: Configuration
    prices: F64
    """of a worker of each class, and of a stream"""
    at_least: float = 1 + _TOLERANCE
    """what a new column must be worth for what it costs"""

    def trade(self, board: PriceTable) -> tuple[int, F64]:
        """Add some of the best replicas.

        Returns:
            How many of them are new; and for each limit what any replica between the limit before and this one is
            worth, at most, for what it costs.
        """
        priced = board.price(self._group_prices(board.rows), np.arange(len(board.limits)))
        streams = np.where(board.rows == 1, np.maximum(1.0, board.sum_s / board.lowest), 0.0)
        costs = priced.least + float(self.prices[-1]) * streams
        with np.errstate(divide="ignore"):
            worth, at_most = board.rows / board.limits / costs, board.rows / board.lowest / costs
        return self._add(priced, worth, 6 * len(np.unique(board.rows))), at_most

    def trade_finely(self, table: PriceTable, worth: dict[int, F64]) -> tuple[int, float]:
        """Add the best replicas of one table, where they may be worth what they cost.

        Args:
            table: of one number of rows.
            worth: by rows, for each limit of the thinned table, from `trade`.

        Returns:
            How many of them are new; and what any replica with these rows is worth, at most, for what it costs.
        """
        rows = int(table.rows[0])
        windows = worth[rows]
        if rows == 1:
            windows = self._weigh(table.thinned(_COARSE), windows)
        at_most = np.repeat(windows, _COARSE)[: len(table.limits)]
        if rows > 1:  # no replica in between costs less, and none advances more streams than at its own limit
            at_most = at_most * np.repeat(table.lowest[::_COARSE], _COARSE)[: len(table.limits)] / table.lowest
        fine = np.flatnonzero(at_most > self.at_least)
        if not len(fine):
            return 0, float(at_most.max())
        priced = self._price(table, fine)
        with np.errstate(divide="ignore"):
            at_most[fine] = rows / table.lowest[fine] / priced.least
        added = self._add(priced, at_most[fine], 6)
        if not added and rows > 1:
            added = self._refine(priced, at_most)
        return added, float(at_most.max())

    def worth_of(self, table: PriceTable) -> dict[int, F64]:
        """What `trade_finely` needs of a table that was not on a board."""
        _, at_most = self.trade(table.thinned(_COARSE))
        return {int(table.rows[0]): at_most}

    def _price(self, table: PriceTable, limits: I64) -> Priced:
        """Where a micro-batch has one row, streams are paid by the seconds that they are under way."""
        seconds_prices = None
        if table.rows[0] == 1 and self.prices[-1] > 0:
            seconds_prices = float(self.prices[-1]) / table.lowest[limits]
        return table.price(self._group_prices(table.rows[limits]), limits, seconds_prices)

    def _weigh(self, thinned: PriceTable, worth: F64) -> F64:
        """A better bound on what replicas with one row are worth for what they cost."""
        above = np.flatnonzero(worth > self.at_least)
        if not len(above):
            return worth
        worth = worth.copy()
        with np.errstate(divide="ignore"):
            worth[above] = 1 / thinned.lowest[above] / self._price(thinned, above).least
        return worth

    def _group_prices(self, rows: I64) -> F64:
        """[K, G] of a stage: its workers, and the streams that fill it unless there can be fewer."""
        workers = np.array(self.configuration.problem.groups, np.float64) @ self.prices[:-1]
        return workers + float(self.prices[-1]) * np.where(rows > 1, rows, 0)[:, np.newaxis]

    def _add(self, priced: Priced, worth: F64, at_most: int) -> int:
        rows = priced.table.rows[priced.limits]
        peaks = _peaks(worth, self.at_least)[:at_most]
        return sum(self.configuration.add(priced.stages(position), int(rows[position])) for position in peaks)

    def _refine(self, priced: Priced, at_most: F64) -> int:
        """Where sums keep replicas from what their slowest stage promises: raise the price of a second, step by step.

        Mutates: at_most, lowered where it can be.
        """
        table, added = priced.table, 0
        for step in _SECONDS_PRICES:
            above = np.flatnonzero(at_most[priced.limits] > 1 + _REFINED)
            if not len(above):
                break
            limits = priced.limits[above]
            seconds_prices = step * priced.group_prices.min() / table.limits[limits]
            credit = (seconds_prices * table.limits[limits])[:, np.newaxis]
            with_seconds = table.price(priced.group_prices[above] - credit, limits, seconds_prices)
            worth = table.rows[limits] / table.lowest[limits] / np.maximum(with_seconds.least, priced.least[above])
            added += self._add(with_seconds, worth, 6)
            at_most[limits] = np.minimum(at_most[limits], worth)
        return added


def _peaks(worth: F64, at_least: float) -> list[int]:
    """Where it is large enough and no smaller than at both neighbours, the largest first."""
    padded = np.pad(worth, 1, constant_values=-np.inf)
    peak = (worth >= padded[:-2]) & (worth >= padded[2:]) & (worth > at_least) & (worth > 0)
    positions = np.flatnonzero(peak)
    return positions[np.argsort(-worth[positions], kind="stable")].tolist()

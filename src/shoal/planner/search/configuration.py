"""How many replicas of each kind: the configuration LP, its bound, and its integer solution.

A column is a replica: the workers of each class that it uses, its streams, and the streams per second that it advances.
The LP takes any multiple of any column within the numbers of workers and streams. There are too many columns to list,
so they are generated: solve with some, take the duals as prices, and search for replicas that are worth more than they
cost (`pricing`), until there is none. If at some prices no replica is worth more than `ratio` times its cost, then no
plan exceeds `ratio` times the cost of all workers and streams. That is the bound, and it holds however well the LP was
solved. HiGHS then chooses whole numbers of the columns.

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
"""Replicas whose worth exceeds their cost by less than this share are not searched for."""
_REFINED = 5e-3
"""Only replicas whose worth exceeds their cost by this share are refined by the seconds of their stages and hops."""
_COARSE = 16
"""Only one in so many limits is priced until that finds no more columns."""
_ROUNDS = 60
_SECONDS_PRICES = (0.2, 0.8)
_EVEN_PARTS = (0.02, 0.1, 0.3, 1.0)
"""Parts of the prices that are spread evenly over all workers, tried for a bound if the LP's own prices give none."""
_INTEGER_GAP = 2e-3
"""The relative gap to the LP's value at which HiGHS may stop."""
_NODES = 2000
"""The most nodes of HiGHS' search tree; not seconds, so that the same input gives the same plan."""


@dataclass(slots=True, kw_only=True, eq=False)
class Configuration:
    """The LP with the columns so far."""

    problem: ReplicaProblem
    """The problem, compact."""
    num_streams: int
    columns: dict[tuple[tuple[PlacedStage, ...], int], Pipeline] = field(
        default_factory=dict[tuple[tuple[PlacedStage, ...], int], Pipeline]
    )

    def add(self, stages: tuple[PlacedStage, ...], rows: int) -> bool:
        """Add a replica of these stages, once with as many streams as fill them and once with as few as they need.

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
        """Whether there are enough workers for a whole replica; the LP may use a fraction of one that does not fit."""
        return all(use <= count for use, count in zip(pipeline.used, self.problem.counts, strict=True))

    def matrix(self, pipelines: Collection[Pipeline]) -> tuple[F64, F64, F64]:
        """Streams per second of each column; its use of each class and of streams; the available amounts of these."""
        rates = np.array([pipeline.streams_per_s for pipeline in pipelines])
        takes = np.array([(*pipeline.used, pipeline.num_streams) for pipeline in pipelines], np.float64).T
        return rates, takes, np.array([*self.problem.counts, self.num_streams], np.float64)

    def value(self) -> float:
        """The optimal value of the LP."""
        have = np.array([*self.problem.counts, self.num_streams], np.float64)
        return float(self.prices() @ have)

    def prices(self) -> F64:
        """The duals of the LP: the prices of a worker of each class and of a stream."""
        return linear_prices(*self.matrix(self.columns.values()))

    def whole(self) -> list[Pipeline]:
        """Choose whole numbers of columns for the most streams per second that HiGHS finds."""
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
        configuration: the LP. Mutates: gets the columns.
        rows: the possible rows of a replica's micro-batches.

    Returns:
        An upper bound on streams per second of any plan with these rows; 0: nothing fits.
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
    """An upper bound if the LP's prices give none, because they are 0 for all workers of some replica.

    It is the better one of two: no stream is faster than through the fastest stages, and prices that are partly spread
    over all workers are never 0.
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
    """Add replicas of one stage on every group that can hold the whole model."""
    num_blocks = configuration.problem.num_blocks
    for count in rows:
        whole_s = configuration.problem.times(count).work_s[:, 0, num_blocks]
        for group in np.flatnonzero(whole_s < np.inf):
            configuration.add((PlacedStage(group=int(group), first=0, last=num_blocks),), count)


def _boards(tables: Sequence[PriceTable]) -> list[PriceTable]:
    """As few tables as possible: those in which the predecessor of a stage does not matter are stacked."""
    plain = [table for table in tables if not table.has_kinds]
    return [*([stacked(plain)] if plain else []), *(table for table in tables if table.has_kinds)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """The search for replicas at certain prices."""

    configuration: Configuration
    prices: F64
    """The prices of a worker of each class, and of a stream."""
    at_least: float = 1 + _TOLERANCE
    """The least worth of a new column relative to its cost."""

    def trade(self, board: PriceTable) -> tuple[int, F64]:
        """Add some of the best replicas.

        Returns:
            How many of them are new; and for each limit an upper bound on worth over cost of any replica between the
            previous limit and this one.
        """
        priced = board.price(self._group_prices(board.rows), np.arange(len(board.limits)))
        streams = np.where(board.rows == 1, np.maximum(1.0, board.sum_s / board.lowest), 0.0)
        costs = priced.least + float(self.prices[-1]) * streams
        with np.errstate(divide="ignore"):
            worth, at_most = board.rows / board.limits / costs, board.rows / board.lowest / costs
        return self._add(priced, worth, 6 * len(np.unique(board.rows))), at_most

    def trade_finely(self, table: PriceTable, worth: dict[int, F64]) -> tuple[int, float]:
        """Add the best replicas of one table, at limits where they may be worth their cost.

        Args:
            table: the table of one number of rows.
            worth: by rows, the bounds from `trade` for each limit of the thinned table.

        Returns:
            How many of them are new; and an upper bound on worth over cost of any replica with these rows.
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
        """The bounds that `trade_finely` needs, for a table that `trade` has not priced."""
        _, at_most = self.trade(table.thinned(_COARSE))
        return {int(table.rows[0]): at_most}

    def _price(self, table: PriceTable, limits: I64) -> Priced:
        """Price a table. With one row per micro-batch, streams are priced by the seconds that they are in flight."""
        seconds_prices = None
        if table.rows[0] == 1 and self.prices[-1] > 0:
            seconds_prices = float(self.prices[-1]) / table.lowest[limits]
        return table.price(self._group_prices(table.rows[limits]), limits, seconds_prices)

    def _weigh(self, thinned: PriceTable, worth: F64) -> F64:
        """A tighter bound on worth over cost of replicas with one row."""
        above = np.flatnonzero(worth > self.at_least)
        if not len(above):
            return worth
        worth = worth.copy()
        with np.errstate(divide="ignore"):
            worth[above] = 1 / thinned.lowest[above] / self._price(thinned, above).least
        return worth

    def _group_prices(self, rows: I64) -> F64:
        """[K, G]: the price of a stage: its workers, and the streams that fill it unless there can be fewer."""
        workers = np.array(self.configuration.problem.groups, np.float64) @ self.prices[:-1]
        return workers + float(self.prices[-1]) * np.where(rows > 1, rows, 0)[:, np.newaxis]

    def _add(self, priced: Priced, worth: F64, at_most: int) -> int:
        rows = priced.table.rows[priced.limits]
        peaks = _peaks(worth, self.at_least)[:at_most]
        return sum(self.configuration.add(priced.stages(position), int(rows[position])) for position in peaks)

    def _refine(self, priced: Priced, at_most: F64) -> int:
        """Tighten bounds of replicas that sums of stages keep from full speed, by raising the price of a second.

        Mutates: at_most, lowered where possible.
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
    """Positions of local maxima above `at_least`, the largest first."""
    padded = np.pad(worth, 1, constant_values=-np.inf)
    peak = (worth >= padded[:-2]) & (worth >= padded[2:]) & (worth > at_least) & (worth > 0)
    positions = np.flatnonzero(peak)
    return positions[np.argsort(-worth[positions], kind="stable")].tolist()

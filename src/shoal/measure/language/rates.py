"""What workers do whatever the model, at one division of the machine: `shoal profile` without a model."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from shoal.measure.language.links import PairSpeeds, measure_message, measure_pair
from shoal.measure.language.process import ProfileTeam, seconds_of
from shoal.model.weights import BLOCK
from shoal.protocol.profile_messages import TimeCopy, TimeLimits, TimeProduct
from shoal.protocol.stage_config import Precision

_LIMITS = TimeLimits(min_runs=3, max_runs=20, enough_s=0.1)
_MEMORY_BYTES = 64 << 20
"""Copied, and of a matrix that one row is multiplied by: more than a worker's part of most last-level caches."""
_SIDE = 2048
"""Rows of a matrix, and columns of one that many rows are multiplied by."""
_MANY_ROWS = 256
"""Prompt rows that are multiplied at once."""
_WEIGHT_BYTES: dict[Precision, float] = {"fp32": 4.0, "int8": 1 + 4 / BLOCK, "int4": 0.5 + 4 / BLOCK}
"""with the scale that a block has"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRates:
    """Matrix products at one precision."""

    read_bytes_per_s: float
    """of weights, one row, the other workers idle"""
    busy_read_bytes_per_s: float
    """the same while all workers do it"""
    flops_per_s: float
    """many rows, the other workers idle"""
    busy_flops_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRates:
    """One worker among those that share the machine."""

    num_workers: int
    threads: int
    """of each"""
    copy_bytes_per_s: float
    """alone; every byte is read once and written once"""
    products: dict[str, ProductRates]
    """by precision: fp32, int8, int4"""
    message_s: float
    """from the head to a worker and back"""
    pair: PairSpeeds | None = None
    """links of two workers; None where there is one"""


def measure_layout(team: ProfileTeam, *, memory_bytes: int = _MEMORY_BYTES) -> LayoutRates:
    """All rates of a team's first worker. Raises WorkerLost.

    Args:
        team: of a layout.
        memory_bytes: to read and to copy; too few would come from a cache.
    """
    return LayoutRates(
        num_workers=len(team.slots),
        threads=team.slots[0].threads,
        copy_bytes_per_s=memory_bytes / _alone_s(team, TimeCopy(num_bytes=memory_bytes, limits=_LIMITS)),
        products={precision: _measure_products(team, precision, memory_bytes) for precision in _WEIGHT_BYTES},
        message_s=measure_message(team),
        pair=measure_pair(team),
    )


def _measure_products(team: ProfileTeam, precision: Precision, memory_bytes: int) -> ProductRates:
    num_out = round(memory_bytes / _WEIGHT_BYTES[precision] / _SIDE)
    one_row = _product(precision, rows=1, num_out=num_out)
    many_rows = _product(precision, rows=_MANY_ROWS, num_out=_SIDE)
    num_bytes = _WEIGHT_BYTES[precision] * _SIDE * num_out
    flops = 2.0 * many_rows.rows * _SIDE * _SIDE
    return ProductRates(
        read_bytes_per_s=num_bytes / _alone_s(team, one_row),
        busy_read_bytes_per_s=num_bytes / _busy_s(team, one_row),
        flops_per_s=flops / _alone_s(team, many_rows),
        busy_flops_per_s=flops / _busy_s(team, many_rows),
    )


def _product(precision: Precision, *, rows: int, num_out: int) -> TimeProduct:
    limits = TimeLimits(
        min_runs=_LIMITS.min_runs, max_runs=_LIMITS.max_runs, enough_s=_LIMITS.enough_s, keep_going=True
    )
    return TimeProduct(precision=precision, rows=rows, num_in=_SIDE, num_out=num_out, limits=limits)


def _alone_s(team: ProfileTeam, request: TimeCopy | TimeProduct) -> float:
    seconds = statistics.median(seconds_of(team.ask(0, request)))
    team.pause()
    return seconds


def _busy_s(team: ProfileTeam, request: TimeProduct) -> float:
    seconds = statistics.median(seconds_of(team.ask_all(request)[0]))
    team.pause()
    return seconds

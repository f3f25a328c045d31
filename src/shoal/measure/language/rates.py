"""Rates of workers that do not depend on a model, for one layout: `shoal profile` without a model."""

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
"""Bytes that are copied, and bytes of the matrix for one row: more than a worker's share of most last-level caches."""
_SIDE = 2048
"""Rows of the matrices, and columns of the one for many rows."""
_MANY_ROWS = 256
"""Number of prompt rows that are multiplied at once."""
_WEIGHT_BYTES: dict[Precision, float] = {"fp32": 4.0, "int8": 1 + 4 / BLOCK, "int4": 0.5 + 4 / BLOCK}
"""Bytes per weight, including the scale of its block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRates:
    """Rates of matrix products at one precision."""

    read_bytes_per_s: float
    """Weights read for one row while the other workers are idle."""
    busy_read_bytes_per_s: float
    """Weights read for one row while all workers compute."""
    flops_per_s: float
    """Speed for many rows while the other workers are idle."""
    busy_flops_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRates:
    """Rates of one worker among those that share the machine."""

    num_workers: int
    threads: int
    """Threads of each worker."""
    copy_bytes_per_s: float
    """Bytes copied per second while the other workers are idle; each byte is read and written once."""
    products: dict[str, ProductRates]
    """By precision: fp32, int8, int4."""
    message_s: float
    """Seconds of a round trip between the head and a worker."""
    pair: PairSpeeds | None = None
    """Speeds of the links between two workers; None: there is only one."""


def measure_layout(team: ProfileTeam, *, memory_bytes: int = _MEMORY_BYTES) -> LayoutRates:
    """Measure all rates of a team's first worker. Raises WorkerLost.

    Args:
        team: the team of a layout.
        memory_bytes: bytes to read and to copy; they must exceed the caches.
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

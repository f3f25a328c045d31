"""How much a worker's speed of now differs from what was measured before, and its speed with that made good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from shoal.planner.speeds.speeds import BlockSpeed, Curve, WorkerSpeed

TOLERATED = 0.03
"""Drift that is left alone: two measurements of a quiet machine differ by as much."""
_LEAST_S = 1e-9
"""Of any layer; noise can make a difference of two times nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Seconds of now over those of before, at the rows that were measured now."""

    decode_ratios: Curve
    """of whole layers for output rows"""
    prefill_ratios: Curve
    """of whole layers for prompt rows"""
    head_ratios: Curve
    """of the head for sampled rows"""
    decode_context: Curve
    """what output rows' contexts take now: a small difference of two steps, of which no ratio can be trusted"""
    prefill_context_s: float
    """the same of a prompt row"""

    @property
    def decode(self) -> float:
        """Of layers for output rows, the median."""
        return median(self.decode_ratios.seconds)

    @property
    def prefill(self) -> float:
        """Of layers for prompt rows, the median."""
        return median(self.prefill_ratios.seconds)

    @property
    def spread(self) -> float:
        """Part by which a single ratio of layers is off from the medians, at most."""
        both = ((self.decode_ratios, self.decode), (self.prefill_ratios, self.prefill))
        return max(abs(ratio / middle - 1.0) for ratios, middle in both for ratio in ratios.seconds)

    @property
    def is_tolerated(self) -> bool:
        """Whether what was measured before can be used as it is."""
        ratios = (*self.decode_ratios.seconds, *self.prefill_ratios.seconds, *self.head_ratios.seconds)
        return max(abs(ratio - 1.0) for ratio in ratios) <= TOLERATED

    @property
    def error(self) -> float:
        """The part by which seconds may be off between the rows that were measured now."""
        return max(self.spread, abs(self.decode - 1.0), abs(self.prefill - 1.0)) if self.is_tolerated else self.spread


def find_drift(before: WorkerSpeed, now: WorkerSpeed) -> Drift:
    """Compare whole layers, and the head, at the rows that were measured now."""
    return Drift(
        decode_ratios=_ratios(before, now, _layer_s(lambda block: block.decode), _layer_rows(now, decode=True)),
        prefill_ratios=_ratios(before, now, _layer_s(lambda block: block.prefill), _layer_rows(now, decode=False)),
        head_ratios=_ratios(before, now, _head_s, now.head.decode.rows),
        decode_context=now.decode_context,
        prefill_context_s=now.prefill_context_s,
    )


def with_drift(speed: WorkerSpeed, drift: Drift) -> WorkerSpeed:
    """The speed of now: as before where the drift is tolerated, else as measured now, and between that in its ratio."""
    if drift.is_tolerated:
        return speed
    slower = times_as_long(speed, drift.decode_ratios, drift.prefill_ratios, drift.head_ratios)
    return replace(slower, decode_context=drift.decode_context, prefill_context_s=drift.prefill_context_s)


def times_as_long(speed: WorkerSpeed, decode: Curve, prefill: Curve, head: Curve) -> WorkerSpeed:
    """Each of a worker's times so many times as long, which keeps how layers are divided.

    Args:
        speed: as it was.
        decode: ratios for layers, by output rows.
        prefill: the same, by prompt rows.
        head: ratios for the head, by sampled rows.
    """

    def slower(block: BlockSpeed, decode: Curve) -> BlockSpeed:
        return BlockSpeed(
            decode=block.decode.times(decode),
            prefill=block.prefill.times(prefill),
            fixed_s=block.fixed_s * decode.seconds[0],
            fixed_row_s=block.fixed_row_s * decode.seconds[-1],
        )

    return replace(
        speed,
        attention=slower(speed.attention, decode),
        mlp=slower(speed.mlp, decode),
        head=slower(speed.head, head),
        decode_context=speed.decode_context.times(decode),
        prefill_context_s=speed.prefill_context_s * median(prefill.seconds),
        step_s=speed.step_s * decode.seconds[0],
    )


def _ratios(
    before: WorkerSpeed, now: WorkerSpeed, seconds_of: Callable[[WorkerSpeed, int], float], rows: tuple[int, ...]
) -> Curve:
    ratios = (max(_LEAST_S, seconds_of(now, one)) / max(_LEAST_S, seconds_of(before, one)) for one in rows)
    return Curve(rows=rows, seconds=tuple(ratios))


def _layer_rows(now: WorkerSpeed, *, decode: bool) -> tuple[int, ...]:
    curves = [block.decode if decode else block.prefill for block in (now.attention, now.mlp)]
    return tuple(sorted({rows for curve in curves for rows in curve.rows}))


def _layer_s(curve: Callable[[BlockSpeed], Curve]) -> Callable[[WorkerSpeed, int], float]:
    def seconds(speed: WorkerSpeed, rows: int) -> float:
        return sum(_block_s(block, curve(block), rows) for block in (speed.attention, speed.mlp))

    return seconds


def _head_s(speed: WorkerSpeed, rows: int) -> float:
    return _block_s(speed.head, speed.head.decode, rows)


def _block_s(block: BlockSpeed, curve: Curve, rows: int) -> float:
    return curve.at(rows) + block.fixed_s + rows * block.fixed_row_s

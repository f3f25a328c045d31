"""How much a worker's speed of now differs from what was measured before, and its speed with that made good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from shoal.planner.speeds.speeds import BlockSpeed, Curve, WorkerSpeed

TOLERATED = 0.10
"""Drift that is left alone: two measurements of a quiet machine differ by some percent."""
_LEAST_S = 1e-9
"""Of any layer; noise can make a difference of two times nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Seconds of now over those of before."""

    decode: float
    """of steps of output rows, the median"""
    prefill: float
    """of steps of prompt rows, the median"""
    spread: float
    """part by which a single step's ratio is off from these, at most"""

    @property
    def is_tolerated(self) -> bool:
        """Whether what was measured before can be used as it is."""
        return max(abs(self.decode - 1.0), abs(self.prefill - 1.0)) <= TOLERATED

    @property
    def error(self) -> float:
        """The part by which seconds may be off, once a drift that is not tolerated has been made good."""
        return max(self.spread, abs(self.decode - 1.0), abs(self.prefill - 1.0)) if self.is_tolerated else self.spread


def find_drift(before: WorkerSpeed, now: WorkerSpeed) -> Drift:
    """Compare whole layers at the rows that were measured now."""
    decode = _ratios(before, now, lambda block: block.decode)
    prefill = _ratios(before, now, lambda block: block.prefill)
    middles = median(decode), median(prefill)
    spread = max(
        abs(ratio / middle - 1.0) for ratios, middle in zip((decode, prefill), middles, strict=True) for ratio in ratios
    )
    return Drift(decode=middles[0], prefill=middles[1], spread=spread)


def with_drift(speed: WorkerSpeed, drift: Drift) -> WorkerSpeed:
    """The speed of now: as before where the drift is tolerated, else all of its times so many times as long."""
    if drift.is_tolerated:
        return speed
    decode, prefill = drift.decode, drift.prefill

    def scaled(block: BlockSpeed) -> BlockSpeed:
        return BlockSpeed(
            decode=_times(block.decode, decode),
            prefill=_times(block.prefill, prefill),
            fixed_s=block.fixed_s * decode,
            fixed_row_s=block.fixed_row_s * decode,
        )

    return replace(
        speed,
        attention=scaled(speed.attention),
        mlp=scaled(speed.mlp),
        head=scaled(speed.head),
        decode_context=_times(speed.decode_context, decode),
        prefill_context_s=speed.prefill_context_s * prefill,
        step_s=speed.step_s * decode,
    )


def _ratios(before: WorkerSpeed, now: WorkerSpeed, curve: Callable[[BlockSpeed], Curve]) -> list[float]:
    """Of a layer's seconds, at the rows that were measured now."""
    rows = sorted({*curve(now.attention).rows, *curve(now.mlp).rows})
    return [_layer_s(now, curve, one) / _layer_s(before, curve, one) for one in rows]


def _layer_s(speed: WorkerSpeed, curve: Callable[[BlockSpeed], Curve], rows: int) -> float:
    blocks = (speed.attention, speed.mlp)
    seconds = sum(curve(block).at(rows) + block.fixed_s + rows * block.fixed_row_s for block in blocks)
    return max(_LEAST_S, seconds)


def _times(curve: Curve, factor: float) -> Curve:
    return Curve(rows=curve.rows, seconds=tuple(factor * seconds for seconds in curve.seconds))

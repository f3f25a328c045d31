"""Drift: how much a worker's present speed differs from an earlier measurement, and the corrected speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from shoal.planner.speeds.speeds import BlockSpeed, Curve, WorkerSpeed

TOLERATED = 0.03
"""Drift that is ignored: two measurements of a quiet machine differ by as much."""
_LEAST_S = 1e-9
"""The least seconds of a layer; noise can make the difference of two times 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Present over earlier seconds, at the rows that were measured again."""

    decode_ratios: Curve
    """Ratios of whole layers for output rows."""
    prefill_ratios: Curve
    """Ratios of whole layers for prompt rows."""
    head_ratios: Curve
    """Ratios of the head for sampled rows."""
    decode_context: Curve
    """Present seconds of output rows' contexts, a small difference of two steps whose ratio would be unreliable."""
    prefill_context_s: float
    """Present seconds of a prompt row's context, per token."""

    @property
    def decode(self) -> float:
        """The median ratio of layers for output rows."""
        return median(self.decode_ratios.seconds)

    @property
    def prefill(self) -> float:
        """The median ratio of layers for prompt rows."""
        return median(self.prefill_ratios.seconds)

    @property
    def spread(self) -> float:
        """The largest relative deviation of a ratio of layers from its median."""
        both = ((self.decode_ratios, self.decode), (self.prefill_ratios, self.prefill))
        return max(abs(ratio / middle - 1.0) for ratios, middle in both for ratio in ratios.seconds)

    @property
    def is_tolerated(self) -> bool:
        """Whether the earlier measurement can be used as it is."""
        ratios = (*self.decode_ratios.seconds, *self.prefill_ratios.seconds, *self.head_ratios.seconds)
        return max(abs(ratio - 1.0) for ratio in ratios) <= TOLERATED

    @property
    def error(self) -> float:
        """The relative error that seconds may have between the rows that were measured again."""
        return max(self.spread, abs(self.decode - 1.0), abs(self.prefill - 1.0)) if self.is_tolerated else self.spread


def find_drift(before: WorkerSpeed, now: WorkerSpeed) -> Drift:
    """Compare whole layers and the head at the rows that were measured again."""
    return Drift(
        decode_ratios=_ratios(before, now, _layer_s(lambda block: block.decode), _layer_rows(now, decode=True)),
        prefill_ratios=_ratios(before, now, _layer_s(lambda block: block.prefill), _layer_rows(now, decode=False)),
        head_ratios=_ratios(before, now, _head_s, now.head.decode.rows),
        decode_context=now.decode_context,
        prefill_context_s=now.prefill_context_s,
    )


def with_drift(speed: WorkerSpeed, drift: Drift) -> WorkerSpeed:
    """The present speed: unchanged if the drift is tolerated, otherwise scaled by the ratios, interpolated by rows."""
    if drift.is_tolerated:
        return speed
    slower = times_as_long(speed, drift.decode_ratios, drift.prefill_ratios, drift.head_ratios)
    return replace(slower, decode_context=drift.decode_context, prefill_context_s=drift.prefill_context_s)


def times_as_long(speed: WorkerSpeed, decode: Curve, prefill: Curve, head: Curve) -> WorkerSpeed:
    """Scale a worker's times by ratios, keeping how layers are divided.

    Args:
        speed: the speed to scale.
        decode: ratios for layers, by output rows.
        prefill: ratios for layers, by prompt rows.
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

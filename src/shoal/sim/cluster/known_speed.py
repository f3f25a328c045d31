"""The speed that a replica's meter would learn from workers of predicted speed."""

from __future__ import annotations

from shoal.core.speed.replica_speed import SpeedMeter
from shoal.core.speed.routing import ReplicaSpeed
from shoal.core.speed.slow_workers import SpeedEvent
from shoal.core.speed.step_times import StepShape
from shoal.planner.predict.step_seconds import StepSeconds
from shoal.protocol.language_messages import StepId, StepResult

_PROMPT = StepShape(output_rows=0, output_context=0, prompt_rows=256, prompt_context=256 * 128)
_ROWS, _CONTEXT = 8, 256
"""The prompt and decode steps at which speeds are evaluated. Source: those of a meter's predictions
(core/speed/replica_speed.py)."""


class KnownSpeedMeter(SpeedMeter):
    """A speed meter of a known speed, which learns nothing."""

    def __init__(self, speed: ReplicaSpeed) -> None:
        super().__init__()
        self._speed = speed

    @property
    def is_slow(self) -> bool:
        """False: the speed never changes."""
        return False

    def note_sent(self, step_id: StepId, shape: StepShape, now_s: float) -> None:
        """Do nothing."""

    def note_answered(self, result: StepResult, now_s: float) -> list[SpeedEvent]:
        """Do nothing."""
        return []

    def speed(self, now_s: float) -> ReplicaSpeed:
        """The known speed, the same at any time."""
        return self._speed


def known_speed(times: StepSeconds) -> ReplicaSpeed:
    """The speed of a replica at typical steps."""
    prompt = times.passage(_PROMPT, samples=1, is_alone=False)
    one, several = (
        times.passage(StepShape(rows, rows * _CONTEXT, 0, 0), samples=rows, is_alone=False) for rows in (1, _ROWS)
    )
    rows_s = max(0.0, sum(several.stage_s) - sum(one.stage_s)) / (_ROWS - 1)
    return ReplicaSpeed(
        prompt_token_s=prompt.slowest_s / _PROMPT.prompt_rows,
        output_step_s=max(0.0, one.chain_s - rows_s),
        output_row_s=rows_s / len(one.stage_s),
    )

"""How long workers may be silent while they owe an answer: a worker that hangs is to be found soon, one that computes
a long prompt must never be taken for one that hangs.

The base is `worker_timeout_s`. Where the step that is due should take long by itself, its expected time counts, several
times. That comes from the steps of this replica so far; before there is one, from a single row computed at loading.
"""

from __future__ import annotations

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.speed.batch_times import BatchTimes
from shoal.core.speed.step_times import StepShape
from shoal.protocol.messages import Step, StepId, StepResult

_TIMES_EXPECTED = 4.0
"""Of a step's expected time: another program on the same cores doubles it, a cold cache or a fit on few steps again.
A judgment."""
_CONTEXT_OF_A_ROW = 1000
"""Tokens of context that count as much as a row itself. Attention over c tokens takes as much arithmetic as a layer's
matrices where c is 6 times the hidden size (3456 for SmolLM2, more for larger models); fewer errs towards patience."""
_UNKNOWN_S = 120.0
"""Where nothing at all is known of a replica's speed."""
_FORGIVING_S = 300.0
"""For so long after silence was taken for loss, patience stays doubled: it may have been a mistake, and the step that
would show it was never answered."""
_MOST_DOUBLINGS = 4


class Patience:
    """Follows one replica's steps. `now_s` is on one monotonic clock."""

    def __init__(self, config: RecoveryConfig) -> None:
        self._config = config
        self._row_s = 0.0
        self._outputs = BatchTimes()
        """of steps with output rows only"""
        self._prompts = BatchTimes()
        self._out: dict[StepId, StepShape] = {}
        """sent and not answered, oldest first"""
        self._since_s = 0.0
        """when it last answered, or was sent a step while it owed none"""
        self._num_doublings = 0
        self._doubled_s = 0.0

    def start(self, row_s: float) -> None:
        """Other workers are there, which took `row_s` for a single row; 0: not known. What the old took counts on."""
        self._row_s = row_s or self._row_s
        self._out.clear()

    def note_sent(self, step: Step, now_s: float) -> None:
        """A step is on its way."""
        if not self._out:
            self._since_s = now_s
        self._out[step.step_id] = StepShape.of(step)

    def note_answered(self, result: StepResult, now_s: float) -> None:
        """A step has come back. One that is not out is ignored."""
        shape = self._out.pop(result.step_id, None)
        if shape is None:
            return
        self._since_s = now_s
        if seconds := sum(result.compute_s):
            times = self._prompts if shape.prompt_rows else self._outputs
            times.observe(_work(shape), seconds, now_s)

    def note_mistrust(self, now_s: float) -> None:
        """It was silent for too long and is given up for lost."""
        self._num_doublings = min(self._doublings(now_s) + 1, _MOST_DOUBLINGS)
        self._doubled_s = now_s

    def overdue_s(self) -> float | None:
        """When it will have been silent for too long, if it stays so; None: it owes nothing."""
        return self._since_s + self._allowance_s() if self._out else None

    def silence_s(self, now_s: float) -> float:
        """For how long it has owed an answer."""
        return now_s - self._since_s

    def _allowance_s(self) -> float:
        expected_s = self._expected_s(next(iter(self._out.values())))
        if expected_s is None:
            return max(_UNKNOWN_S, self._config.worker_timeout_s)
        factor = _TIMES_EXPECTED * 2.0 ** self._doublings(self._since_s)
        return max(self._config.worker_timeout_s, factor * expected_s)

    def _expected_s(self, shape: StepShape) -> float | None:
        """Steps of the other kind say more than a single row: what a row costs is at most that of an output row."""
        own, other = (self._prompts, self._outputs) if shape.prompt_rows else (self._outputs, self._prompts)
        for times in (own, other):
            if times.observed_s is not None:
                return times.predict(_work(shape))
        return self._row_s * _work(shape) or None

    def _doublings(self, now_s: float) -> int:
        return self._num_doublings if now_s - self._doubled_s < _FORGIVING_S else 0


def _work(shape: StepShape) -> int:
    """In rows."""
    context = shape.output_context + shape.prompt_context
    return shape.output_rows + shape.prompt_rows + context // _CONTEXT_OF_A_ROW

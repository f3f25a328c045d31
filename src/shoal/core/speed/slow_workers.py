"""Whether a stage has become slower than it was, or than the plan says: its work against like work of its past.

Like steps are those of about as many rows with about as much context, like batches those of about as many rows that
cost about as much. A model of the rows would do with fewer of them, but what it gets wrong about a new load would look
like a slow machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, log2

from shoal.core.speed.step_times import StepShape
from shoal.core.speed.work_size import WorkSize

SLOWED_FACTOR = 1.75
"""A worker counts as slow from here on: above what replicas that share memory cost each other (1.4), below what half
of a machine costs (2). A judgment."""
RECOVERED_FACTOR = 1.3
"""A slow worker counts as well again from here down; between the two factors it stays what it was."""
WINDOW_STEPS = 32
"""Judged steps that a factor is taken over: a second of decoding. A worker held to a share of its core runs at full
speed until the share is used up and then stands still (100 ms is a usual period), so neither single steps nor medians
say anything."""
_FEWEST_STEPS = 16
"""Steps that the window must hold before anything is said."""
_OUTLIERS = 2
"""Steps of the window, those furthest behind, that are left out: one that was held up is no slow worker."""
_FEWEST_LIKE_STEPS = 8
"""Like steps that must be known before others are judged by them."""
_MOST_STRANGE_STEPS = 1000
"""Steps in a row of a slow worker that nothing known compares with, after which its past is forgotten: a slow worker
teaches nothing, so a load that has changed for good would leave it slow for good. A minute of decoding."""
_DECAY = 0.98
"""Weight of the past at every like step: about fifty count, so that what drifts slowly becomes the norm. A judgment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSlowed:
    """A stage takes `factor` times as long for its steps as expected."""

    stage: int
    factor: float
    is_waiting: bool = False
    """Whether the first shard computes as fast as ever and waits for another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecovered:
    """A stage that had slowed is as fast as expected again."""

    stage: int
    factor: float


SpeedEvent = WorkerSlowed | WorkerRecovered
Likeness = tuple[int, ...]
"""Pieces of work with equal ones take about as long; one whose numbers are all at least another's takes longer."""


def describe(event: SpeedEvent) -> str:
    """The event as a line for a person."""
    match event:
        case WorkerSlowed():
            waiting = ", where its first shard waits for another" if event.is_waiting else ""
            return (
                f"stage {event.stage} has slowed down and takes {event.factor:.1f} times as long as expected{waiting}"
            )
        case WorkerRecovered():
            return f"stage {event.stage} is as fast as expected again"


class StageWatch:
    """Watches one stage. Says so when it slows down and when it recovers, each once."""

    __slots__ = ("_like", "_num_strange", "_stage", "_window", "is_slow")

    def __init__(self, stage: int) -> None:
        self._stage = stage
        self._like: dict[Likeness, _LikeSteps] = {}
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW_STEPS)
        """Observed and expected seconds of the latest steps."""
        self._num_strange = 0
        self.is_slow = False

    def factor(self) -> float:
        """Observed over expected seconds of the latest steps; 1.0 while too little is known."""
        return trimmed_ratio(self._window) if len(self._window) >= _FEWEST_STEPS else 1.0

    def observe(self, kind: Likeness, seconds: float, predicted_s: float | None = None) -> SpeedEvent | None:
        """A piece of work has taken so long. Returns what that changes.

        The norm is made of what a worker that is well takes: else what a slow one does would soon be the norm.

        Args:
            kind: of the piece.
            seconds: that it took; 0 says nothing.
            predicted_s: what the plan expects of it, which counts where there is no past yet; None: nothing.
        """
        if seconds <= 0.0:
            return None
        like = self._like.setdefault(kind, _LikeSteps())
        expected_s = like.seconds if like.is_known else predicted_s or self._estimate(kind, seconds)
        self._num_strange = 0 if expected_s else self._num_strange + 1
        if self._num_strange > _MOST_STRANGE_STEPS and self.is_slow:
            return self._start_over()
        if expected_s:
            self._window.append((seconds, expected_s))
        factor = self.factor()
        if factor <= RECOVERED_FACTOR and seconds < SLOWED_FACTOR * (expected_s or inf):
            like.add(seconds)
        return self._judge(factor)

    def _estimate(self, kind: Likeness, seconds: float) -> float | None:
        """Expected seconds of a step of a kind that is hardly known yet; None: its own say nothing.

        Steps that are larger take longer. So what takes longer than a known larger one shows a slow worker, and what
        takes hardly longer than a known smaller one shows a worker that is well.
        """
        known = [(other, like.seconds) for other, like in self._like.items() if like.is_known]
        at_most_s = min((like_s for other, like_s in known if _is_within(kind, other)), default=inf)
        at_least_s = max((like_s for other, like_s in known if _is_within(other, kind)), default=0.0)
        if seconds > at_most_s:
            return at_most_s
        return at_least_s if seconds <= RECOVERED_FACTOR * at_least_s else None

    def _start_over(self) -> SpeedEvent:
        """What it does now cannot be compared with what it did before."""
        self._like.clear()
        self._window.clear()
        self._num_strange, self.is_slow = 0, False
        return WorkerRecovered(stage=self._stage, factor=1.0)

    def _judge(self, factor: float) -> SpeedEvent | None:
        if not self.is_slow and factor >= SLOWED_FACTOR:
            self.is_slow = True
            return WorkerSlowed(stage=self._stage, factor=factor)
        if self.is_slow and factor <= RECOVERED_FACTOR:
            self.is_slow = False
            return WorkerRecovered(stage=self._stage, factor=factor)
        return None


class _LikeSteps:
    """Mean seconds of like steps, the fast ones weighing more (the least squares of the relative error)."""

    __slots__ = ("_rates", "_squares", "count")

    def __init__(self) -> None:
        self.count = 0
        self._rates = self._squares = 0.0

    @property
    def is_known(self) -> bool:
        return self.count >= _FEWEST_LIKE_STEPS

    @property
    def seconds(self) -> float:
        return self._rates / self._squares

    def add(self, seconds: float) -> None:
        self.count += 1
        self._rates = self._rates * _DECAY + 1.0 / seconds
        self._squares = self._squares * _DECAY + 1.0 / (seconds * seconds)


def trimmed_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """Sum of the observed over sum of the expected seconds, without the pairs that are furthest behind.

    Args:
        pairs: observed and expected seconds, more than a few, expected > 0.
    """
    kept = sorted(pairs, key=lambda pair: pair[0] - pair[1])[:-_OUTLIERS]
    return sum(observed for observed, _ in kept) / sum(expected for _, expected in kept)


def step_likeness(shape: StepShape) -> Likeness:
    """Of a step: output rows, prompt rows and mean context.

    Rows within half an octave and the mean context within one are alike: steps then differ by a fifth at most where
    rows decide, and by what an octave of context costs where context does.
    """
    rows = shape.output_rows + shape.prompt_rows
    context = (shape.output_context + shape.prompt_context) / max(1, rows)
    return _half_octaves(shape.output_rows), _half_octaves(shape.prompt_rows), round(log2(context + 1))


def batch_likeness(size: WorkSize) -> Likeness:
    """Of a batch: rows, and what one of them costs, each within half an octave."""
    return _half_octaves(size.rows), _half_octaves(size.row_cost)


def _is_within(smaller: Likeness, larger: Likeness) -> bool:
    """Whether one has no more rows of either kind and no more context than the other."""
    return all(less <= more for less, more in zip(smaller, larger, strict=True))


def _half_octaves(rows: int) -> int:
    return round(2 * log2(rows)) if rows else -1

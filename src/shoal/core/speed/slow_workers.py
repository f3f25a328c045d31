"""Whether a stage has become slower than it was, or than the plan predicts: its work is compared with like work before.

Like steps have about as many rows with about as much context; like batches have about as many rows of about the same
cost. A fitted model of time would need fewer steps, but its errors under a new load would look like a slow machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, log2

from shoal.core.speed.step_times import StepShape
from shoal.core.speed.work_size import WorkSize

SLOWED_FACTOR = 1.75
"""A worker counts as slow from this factor on: above what replicas that share memory cost each other (1.4), below the
loss of half a machine (2). A judgment."""
RECOVERED_FACTOR = 1.3
"""A slow worker counts as recovered below this factor; between the two factors its state does not change."""
WINDOW_STEPS = 32
"""The number of steps in a factor: a second of decoding. A worker that is limited to a share of its core runs at full
speed until the share is used up and then stands still (usually within periods of 100 ms), so neither single steps nor
medians show it."""
_FEWEST_STEPS = 16
"""The fewest steps in the window before a stage is judged."""
_OUTLIERS = 2
"""The number of latest-running steps of the window that are left out: a single delayed step is no slow worker."""
_FEWEST_LIKE_STEPS = 8
"""The fewest like steps before others are judged by them."""
_MOST_STRANGE_STEPS = 1000
"""Steps in a row of a slow worker without known like steps, after which its past is forgotten. Nothing is learned from
a slow worker, so it would stay slow forever after a lasting change of load. A minute of decoding."""
_DECAY = 0.98
"""Weight of the past at every like step: the mean covers about fifty, so that slow drift becomes the norm. A
judgment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSlowed:
    """A stage takes `factor` times as long as expected for its steps."""

    stage: int
    factor: float
    is_waiting: bool = False
    """Whether the first shard computes as fast as before and waits for another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecovered:
    """A stage that had slowed is as fast as expected again."""

    stage: int
    factor: float


SpeedEvent = WorkerSlowed | WorkerRecovered
Likeness = tuple[int, ...]
"""A class of work: equal ones take about the same time, and one that is at least as large in all numbers takes
longer."""


def describe(event: SpeedEvent) -> str:
    """The event as a line for users."""
    match event:
        case WorkerSlowed():
            waiting = ", where its first shard waits for another" if event.is_waiting else ""
            return (
                f"stage {event.stage} has slowed down and takes {event.factor:.1f} times as long as expected{waiting}"
            )
        case WorkerRecovered():
            return f"stage {event.stage} is as fast as expected again"


class StageWatch:
    """Watches one stage and reports, once each, when it slows down and when it recovers."""

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
        """Note the time of a piece of work. Returns an event if the stage has slowed down or recovered.

        Only work of a healthy worker updates the norm; otherwise a slow worker's times would soon become the norm.

        Args:
            kind: the likeness of the work.
            seconds: the time that it took; 0 is ignored.
            predicted_s: the plan's prediction, used while there is no past; None: there is none.
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
        """Expected seconds of a step of a kind that is hardly known; None: nothing can be concluded.

        Larger steps take longer. A step that takes longer than a known larger one therefore shows a slow worker, and
        one that takes hardly longer than a known smaller one shows a healthy worker.
        """
        known = [(other, like.seconds) for other, like in self._like.items() if like.is_known]
        at_most_s = min((like_s for other, like_s in known if _is_within(kind, other)), default=inf)
        at_least_s = max((like_s for other, like_s in known if _is_within(other, kind)), default=0.0)
        if seconds > at_most_s:
            return at_most_s
        return at_least_s if seconds <= RECOVERED_FACTOR * at_least_s else None

    def _start_over(self) -> SpeedEvent:
        """Forget the past, because present work cannot be compared with it."""
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
    """Mean seconds of like steps, weighted towards fast ones (least squares of the relative error)."""

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
    """Sum of observed over sum of expected seconds, without the pairs with the largest delay.

    Args:
        pairs: (observed, expected) seconds; more pairs than are left out, expected > 0.
    """
    kept = sorted(pairs, key=lambda pair: pair[0] - pair[1])[:-_OUTLIERS]
    return sum(observed for observed, _ in kept) / sum(expected for _, expected in kept)


def step_likeness(shape: StepShape) -> Likeness:
    """The likeness of a step: output rows, prompt rows and mean context.

    Rows within half an octave and mean context within one octave are alike. Such steps differ by at most a fifth if
    rows dominate, and by the cost of an octave of context if context does.
    """
    rows = shape.output_rows + shape.prompt_rows
    context = (shape.output_context + shape.prompt_context) / max(1, rows)
    return _half_octaves(shape.output_rows), _half_octaves(shape.prompt_rows), round(log2(context + 1))


def batch_likeness(size: WorkSize) -> Likeness:
    """The likeness of a batch: rows and the cost of a row, each within half an octave."""
    return _half_octaves(size.rows), _half_octaves(size.row_cost)


def _is_within(smaller: Likeness, larger: Likeness) -> bool:
    """Whether one has no more rows of either kind and no more context than the other."""
    return all(less <= more for less, more in zip(smaller, larger, strict=True))


def _half_octaves(rows: int) -> int:
    return round(2 * log2(rows)) if rows else -1

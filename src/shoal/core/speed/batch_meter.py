"""Which of a graph's workers have slowed down, and how long its stages take, from the batches that were answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shoal.core.speed.slow_workers import SpeedEvent, StageWatch, batch_likeness
from shoal.core.speed.work_size import WorkSize

_RECENT_BATCHES = 32
"""Batches whose mean stands for those to come. As many as of a language model's steps."""


class BatchMeter:
    """Follows the batches of one replica. Start a new one for other workers."""

    __slots__ = ("_busy_s", "_recent", "_watches")

    def __init__(self) -> None:
        self._watches: list[StageWatch] = []
        self._recent: deque[Sequence[float]] = deque(maxlen=_RECENT_BATCHES)
        self._busy_s: list[float] = []

    def slowdowns(self) -> tuple[float, ...]:
        """For each stage, observed over expected seconds of its latest batches; 1.0: as expected."""
        return tuple(watch.factor() for watch in self._watches)

    def stage_s(self) -> tuple[float, ...]:
        """For each stage, mean seconds of the latest batches, the same ones for all."""
        return tuple(sum(of_stage) / len(self._recent) for of_stage in zip(*self._recent, strict=True))

    def busy_s(self) -> tuple[float, ...]:
        """For each stage, seconds that all answered batches took."""
        return tuple(self._busy_s)

    def note_answered(self, size: WorkSize, compute_s: Sequence[float]) -> list[SpeedEvent]:
        """A batch has been answered. Returns what that says about the workers.

        Args:
            size: of the batch.
            compute_s: seconds of each stage; empty where they are not known.
        """
        if len(compute_s) != len(self._watches):
            self._watches = [StageWatch(stage) for stage in range(len(compute_s))]
            self._recent.clear()
            self._busy_s = [0.0] * len(compute_s)
        if compute_s:
            self._recent.append(compute_s)
            self._busy_s = [before + seconds for before, seconds in zip(self._busy_s, compute_s, strict=True)]
        likeness = batch_likeness(size)
        events = [watch.observe(likeness, seconds) for watch, seconds in zip(self._watches, compute_s, strict=True)]
        return [event for event in events if event is not None]

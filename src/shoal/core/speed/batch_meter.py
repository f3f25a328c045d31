"""The speed of a graph's stages, and which of its workers have slowed down, learned from answered batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shoal.core.speed.slow_workers import SpeedEvent, StageWatch, batch_likeness
from shoal.core.speed.work_size import WorkSize

_RECENT_BATCHES = 32
"""The number of batches in the mean. The same number as steps of a language model."""


class BatchMeter:
    """Measures one replica's batches. New workers need a new meter."""

    __slots__ = ("_busy_s", "_recent", "_watches")

    def __init__(self) -> None:
        self._watches: list[StageWatch] = []
        self._recent: deque[Sequence[float]] = deque(maxlen=_RECENT_BATCHES)
        self._busy_s: list[float] = []

    def slowdowns(self) -> tuple[float, ...]:
        """Observed over expected seconds of each stage's latest batches; 1.0: as expected."""
        return tuple(watch.factor() for watch in self._watches)

    def stage_s(self) -> tuple[float, ...]:
        """Mean seconds of each stage in the latest batches."""
        return tuple(sum(of_stage) / len(self._recent) for of_stage in zip(*self._recent, strict=True))

    def busy_s(self) -> tuple[float, ...]:
        """Seconds of each stage, summed over all answered batches."""
        return tuple(self._busy_s)

    def note_answered(self, size: WorkSize, compute_s: Sequence[float]) -> list[SpeedEvent]:
        """Note an answered batch. Returns events about the speed of the workers.

        Args:
            size: the size of the batch.
            compute_s: seconds of each stage; empty if not known.
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

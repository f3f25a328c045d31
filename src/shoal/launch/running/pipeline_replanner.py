"""`--replan` for the stages of any pipeline: when to look, and how a move is made."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from shoal.core.speed.replan import LOOK_S, ReplanWatch
from shoal.errors import ModelChanged, ShoalError
from shoal.launch.running.running_plan import RunnablePlan, RunningPlan

_logger = logging.getLogger("shoal.launch")


class StageSpeeds(Protocol):
    """The part of an engine's statistics with the speeds of stages."""

    @property
    def stage_s(self) -> Sequence[Sequence[float]]:
        """[replica][stage]: mean seconds of the latest work."""
        ...

    @property
    def slowdowns(self) -> Sequence[Sequence[float]]:
        """[replica][stage]: observed over expected seconds; 1: as expected."""
        ...


PlanT = TypeVar("PlanT", bound=RunnablePlan[Any])
ReplicaT = TypeVar("ReplicaT")
StatsT = TypeVar("StatsT", bound=StageSpeeds)


class PipelineReplanner(ABC, Generic[PlanT, ReplicaT, StatsT]):
    """Watches the speeds of stages and moves their contents. Only the engine's thread may use it."""

    def __init__(self, running: RunningPlan[PlanT, ReplicaT, StatsT], clock: Callable[[], float]) -> None:
        """
        Args:
            running: the plan and its engine.
            clock: gives monotonic seconds.
        """
        self._running, self._clock = running, clock
        self._watched: defaultdict[int, ReplanWatch] = defaultdict(ReplanWatch)
        self._next_s = clock() + LOOK_S

    @abstractmethod
    def num_requests(self, stats: StatsT, index: int) -> float:
        """The number of a replica's requests."""

    @abstractmethod
    def consider(self, index: int, watched: ReplanWatch, stage_s: Sequence[float], now_s: float) -> None:
        """Consider a replica with a stage that has been slow for a while, and `move` its contents if that pays."""

    def look(self) -> None:
        """Look at the speeds; to be called often, acts every few seconds."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        stats = self._running.stats()
        for index, replica in enumerate(self._running.plan.replicas):
            stage_s, watched = stats.stage_s[index], self._watched[index]
            is_pipeline = len(replica.shards) == len(replica.stages) == len(stage_s) > 1
            slowdowns = stats.slowdowns[index] if is_pipeline else ()
            is_slow = watched.look(slowdowns, self.num_requests(stats, index), now_s)
            if is_slow and not self._running.is_changing(index):
                self.consider(index, watched, stage_s, now_s)

    def move(self, index: int, moved: ReplicaT, what: str, change: str) -> None:
        """Change a replica's plan; the old workers serve until the new ones have loaded.

        Args:
            index: the index of the replica.
            moved: its new plan.
            what: the contents of stages, for the log.
            change: the change, for the log.
        """
        watched = self._watched[index]

        def done(error: ShoalError | None) -> None:
            watched.start_over()
            if error is not None:
                _logger.info(f"replica {index} keeps its {what}: {error}")
            if isinstance(error, ModelChanged):
                self._next_s = math.inf  # further attempts would fail in the same way

        _logger.info(f"replica {index}: {change}")
        self._running.change(index, moved, done)

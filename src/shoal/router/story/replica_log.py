"""The log of a model's replicas for operators: a line for each effect of recovery, and each replica's story."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import assert_never

from shoal.core.recovery.events import GiveUp, RecoveryEffect, ReportRecovery, ReportSpeed, StartWorkers, StopWorkers
from shoal.core.speed.slow_workers import WorkerSlowed, describe
from shoal.core.story import Story

_logger = logging.getLogger("shoal.replicas")
_MAX_NAMED = 20
"""The most ids of requests in one line."""


class ReplicaLog:
    """Writes to the logger `shoal.replicas`. Records have the fields `replica` and, if it has a name, `model`."""

    def __init__(self, model: str = "") -> None:
        """`model`: the model's name, if there are several in this process."""
        self._model = model
        self.story = Story()

    def note(self, effect: RecoveryEffect) -> None:
        """Log an effect on a replica's workers, and all of its story if it is given up."""
        match effect:
            case StopWorkers(replica=replica, reason=reason):
                self._log(logging.WARNING, replica, f"is lost: {reason}")
            case StartWorkers(replica=replica, generation=generation, without=without):
                missing = "" if without is None else f", without worker {without}"
                self._log(logging.INFO, replica, f"starts workers, generation {generation}{missing}")
            case GiveUp(replica=replica, reason=reason):
                self._log(logging.ERROR, replica, f"is given up: {reason}")
                for entry in self.story.of_replica(replica):
                    self._log(logging.ERROR, replica, f"story: {entry.text}")
            case ReportRecovery(replica=replica, pause_s=None):
                self._log(logging.INFO, replica, "continues with new workers")
            case ReportRecovery(replica=replica, pause_s=pause_s):
                self._log(logging.INFO, replica, f"has its workers again after {pause_s:.1f} s")
            case ReportSpeed(replica=replica, change=change):
                level = logging.WARNING if isinstance(change, WorkerSlowed) else logging.INFO
                self._log(level, replica, describe(change), separator=": ")
            case _:
                assert_never(effect)

    def note_joined(self, replica: int) -> None:
        """Log that a replica has joined."""
        self._log(logging.INFO, replica, "has joined")

    def note_moved(self, replica: int, request_ids: Iterable[str]) -> None:
        """Log that a replica takes over requests of others."""
        ids = [*request_ids]
        named = ", ".join(ids[:_MAX_NAMED]) + (" and others" if len(ids) > _MAX_NAMED else "")
        self._log(logging.INFO, replica, f"takes over {len(ids)} requests: {named}")

    def _log(self, level: int, replica: int, what: str, separator: str = " ") -> None:
        prefix = f"{self._model}: " if self._model else ""
        fields = {"replica": replica} | ({"model": self._model} if self._model else {})
        _logger.log(level, "%sreplica %d%s%s", prefix, replica, separator, what, extra=fields)

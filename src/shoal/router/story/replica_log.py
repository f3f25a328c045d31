"""What operators read of a model's replicas: a line in the log for what recovery does, and each replica's story."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import assert_never

from shoal.core.recovery.events import GiveUp, RecoveryEffect, ReportRecovery, ReportSpeed, StartWorkers, StopWorkers
from shoal.core.speed.slow_workers import WorkerSlowed, describe
from shoal.core.story import Story

_logger = logging.getLogger("shoal.replicas")
_MAX_NAMED = 20
"""Requests whose ids stand in one line."""


class ReplicaLog:
    """Writes to the logger `shoal.replicas`. Records carry `replica` and, where there is one, `model`."""

    def __init__(self, model: str = "") -> None:
        """`model`: its name, where there are several in this process."""
        self._model = model
        self.story = Story()

    def note(self, effect: RecoveryEffect) -> None:
        """A line for what is done with a replica's workers; all of its story where it is given up."""
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
                self._log(logging.INFO, replica, "goes on with other workers")
            case ReportRecovery(replica=replica, pause_s=pause_s):
                self._log(logging.INFO, replica, f"has its workers again after {pause_s:.1f} s")
            case ReportSpeed(replica=replica, change=change):
                level = logging.WARNING if isinstance(change, WorkerSlowed) else logging.INFO
                self._log(level, replica, describe(change), separator=": ")
            case _:
                assert_never(effect)

    def note_joined(self, replica: int) -> None:
        """One more replica takes part."""
        self._log(logging.INFO, replica, "has joined")

    def note_moved(self, replica: int, request_ids: Iterable[str]) -> None:
        """Requests of another replica go on on this one."""
        ids = [*request_ids]
        named = ", ".join(ids[:_MAX_NAMED]) + (" and others" if len(ids) > _MAX_NAMED else "")
        self._log(logging.INFO, replica, f"takes over {len(ids)} requests: {named}")

    def _log(self, level: int, replica: int, what: str, separator: str = " ") -> None:
        prefix = f"{self._model}: " if self._model else ""
        fields = {"replica": replica} | ({"model": self._model} if self._model else {})
        _logger.log(level, "%sreplica %d%s%s", prefix, replica, separator, what, extra=fields)

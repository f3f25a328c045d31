"""Which replicas of a graph have their workers: who is lost, who is started again when, who is given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.batching.events import LifeEffect, ReportRecovery, StartWorkers, StopWorkers
from shoal.core.fleet.events import GiveUp
from shoal.core.recovery.worker_life import Phase, WorkerLife


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeStats:
    """What was counted so far, and how it is now."""

    num_serving: int
    """replicas that have their workers"""
    num_recovering: int
    """replicas whose workers are lost and are to be started again"""
    num_losses: int
    """times that workers were lost, while they worked or while they were being started"""
    num_recoveries: int
    """times that a lost replica had workers again"""
    recovery_s: float
    """for how long replicas had no workers, summed over the recoveries"""


class ReplicaLives:
    """Changes by its methods only. `now_s` is on one monotonic clock."""

    def __init__(self, lives: Sequence[WorkerLife]) -> None:
        """`lives`: one a replica, which change through this only from now on."""
        self._lives = lives
        self._num_losses = 0
        self._num_recoveries = 0
        self._recovery_s = 0.0
        self._last_end = "the model has no worker"

    @property
    def death(self) -> str | None:
        """Why no replica has workers or will have some; None: one has or will."""
        return self._last_end if all(life.is_given_up for life in self._lives) else None

    def lose(
        self, index: int, reason: str, worker: int | None, now_s: float, *, is_final: bool = False
    ) -> list[LifeEffect]:
        """A replica's workers are gone. No effects: that was known, or it had none. `is_final`: see `ReplicaLost`."""
        life = self._lives[index]
        if life.phase not in (Phase.SERVING, Phase.STARTING):
            return []
        self._num_losses += 1
        effects: list[LifeEffect] = [StopWorkers(replica=index, reason=reason)]
        end = life.lose(reason, worker, now_s, is_final=is_final)
        if end is not None:
            self._last_end = end
            effects.append(GiveUp(replica=index, reason=end))
        return effects

    def become_ready(self, index: int, now_s: float) -> list[LifeEffect]:
        """A replica's workers are there again."""
        life = self._lives[index]
        assert life.lost_s is not None, "only lost workers are started"
        pause_s = now_s - life.lost_s
        life.become_ready(now_s)
        self._num_recoveries += 1
        self._recovery_s += pause_s
        return [ReportRecovery(replica=index, pause_s=pause_s)]

    def tick(self, now_s: float) -> list[LifeEffect]:
        """Workers that load without a sign of life are lost; those whose time has come are started."""
        effects: list[LifeEffect] = []
        for index, life in enumerate(self._lives):
            overdue_s = life.loading_overdue_s()
            if overdue_s is not None and overdue_s <= now_s:
                effects += self.lose(index, life.loading_silence(now_s), None, now_s)
            if life.is_due(now_s):
                life.start(now_s)
                effects.append(StartWorkers(replica=index))
        return effects

    def wake_s(self) -> float | None:
        """When `tick` may have effects; None: never."""
        times = [life.due_s for life in self._lives if life.phase is Phase.WAITING]
        times += [due_s for life in self._lives if (due_s := life.loading_overdue_s()) is not None]
        return min(times, default=None)

    def stats(self) -> LifeStats:
        """A snapshot for metrics."""
        return LifeStats(
            num_serving=sum(life.is_serving for life in self._lives),
            num_recovering=sum(life.is_recovering for life in self._lives),
            num_losses=self._num_losses,
            num_recoveries=self._num_recoveries,
            recovery_s=self._recovery_s,
        )

"""Recovery of a model's replicas: which are lost, when each is started again, and which are given up.

All kinds of work share it. The scheduler of the work tells it what was sent, answered and lost, asks it at every tick
what is due, and handles its own requests itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import (
    GiveUp,
    RecoveryEffect,
    ReplicaLost,
    ReplicaReady,
    ReportRecovery,
    StartWorkers,
    StopWorkers,
    WorkersProgressed,
)
from shoal.core.recovery.replica_recovery import ReplicaRecovery
from shoal.core.recovery.wake_times import WakeTimes
from shoal.core.recovery.worker_life import Phase

_KEPT_RECOVERIES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryStats:
    """A snapshot for metrics and tests: counts so far, and the present state."""

    num_losses: int
    """Losses of workers, while they worked or while they were being started."""
    num_recoveries: int
    """The number of times that a lost replica got workers again."""
    recovery_s: float
    """Seconds without workers, summed over all recoveries."""
    recoveries_s: tuple[float, ...]
    """Seconds without workers in each of the latest recoveries, in order."""
    phases: tuple[Phase, ...]
    """The phase of each replica's workers."""
    reduced: tuple[bool, ...]
    """Whether each replica runs without a worker that could not be restarted."""

    @property
    def num_serving(self) -> int:
        """Replicas that have their workers."""
        return self.phases.count(Phase.SERVING)

    @property
    def num_recovering(self) -> int:
        """Replicas whose workers are lost and will be restarted."""
        return self.phases.count(Phase.WAITING) + self.phases.count(Phase.STARTING)


class Recovery:
    """The recovery of all replicas of one model. `now_s` is on one monotonic clock."""

    def __init__(self, config: RecoveryConfig | None = None) -> None:
        """Start without replicas. `config`: None means the defaults."""
        self._config = config or RecoveryConfig()
        self.replicas: list[ReplicaRecovery] = []
        """All replicas. Callers read them and note their work."""
        self._wakes = WakeTimes()
        self._num_losses = 0
        self._num_recoveries = 0
        self._recovery_s = 0.0
        self._recoveries_s: deque[float] = deque(maxlen=_KEPT_RECOVERIES)
        self._last_end = "the model has no worker"

    @property
    def death(self) -> str | None:
        """Why no replica has workers or will get them; None if one has or will."""
        return self._last_end if all(one.life.is_given_up for one in self.replicas) else None

    def add(self, row_s: float = 0.0, *, row_cost: int = 1, generation: int = 0) -> ReplicaRecovery:
        """Add a replica that has its workers.

        Args:
            row_s: seconds that they took for a single row; 0: not known.
            row_cost: the cost of that row, see `WorkSize`.
            generation: the generation of the workers.
        """
        replica = ReplicaRecovery(
            len(self.replicas), self._config, row_s, row_cost=row_cost, generation=generation, wakes=self._wakes
        )
        self.replicas.append(replica)
        return replica

    def lose(self, lost: ReplicaLost, now_s: float) -> list[RecoveryEffect]:
        """Note the loss of a replica's workers. Without effects if it was lost already."""
        replica = self.replicas[lost.replica]
        if replica.life.phase not in (Phase.SERVING, Phase.STARTING):
            return []
        self._num_losses += 1
        effects: list[RecoveryEffect] = [StopWorkers(replica=lost.replica, reason=lost.reason, keep=lost.keep)]
        end = replica.lose(lost, now_s)
        if end is not None:
            self._last_end = end
            effects.append(GiveUp(replica=lost.replica, reason=end))
        return effects

    def become_ready(self, ready: ReplicaReady[Any], now_s: float) -> ReportRecovery:
        """Note that a replica has workers again, or new ones in place of others."""
        index = ready.replica
        pause_s = self.replicas[index].become_ready(ready.row_s, now_s, is_replacement=ready.is_replacement)
        if pause_s is not None:
            self._num_recoveries += 1
            self._recovery_s += pause_s
            self._recoveries_s.append(pause_s)
        return ReportRecovery(replica=index, pause_s=pause_s)

    def note_progress(self, event: WorkersProgressed, now_s: float) -> None:
        """Note a sign of life of starting workers."""
        self.replicas[event.replica].life.note_progress(now_s, event.silent, event.waiting_for)
        self._wakes.note_change(event.replica)

    def note_pause(self, pause_s: float) -> None:
        """Exclude a time during which nobody listened from the silence of all workers."""
        for one in self.replicas:
            one.patience.note_pause(pause_s)
            one.life.note_pause(pause_s)
            self._wakes.note_change(one.index)

    def find_silent(self, heard_s: float) -> list[ReplicaLost]:
        """Find replicas whose workers have been silent for too long. The caller must call `lose` for each.

        `heard_s`: the time up to which all messages of workers have been passed on.
        """
        wake_s = self._wakes.earliest_s(self._wake_of)
        if wake_s is None or wake_s > heard_s:
            return []
        return [one.mistrust(heard_s) for one in self.replicas if _is_past(one.overdue_s(), heard_s)]

    def start_due(self, now_s: float) -> list[StartWorkers]:
        """Start the replicas whose restart is due."""
        wake_s = self._wakes.earliest_s(self._wake_of)
        if wake_s is None or wake_s > now_s:
            return []
        due = [one for one in self.replicas if one.life.is_due(now_s)]
        for one in due:
            one.life.start(now_s)
            self._wakes.note_change(one.index)
        return [StartWorkers(replica=one.index, generation=one.generation, without=one.life.without) for one in due]

    def wake_s(self) -> float | None:
        """The next time at which something is due if nothing else happens; None: never."""
        return self._wakes.earliest_s(self._wake_of)

    def _wake_of(self, index: int) -> float | None:
        return self.replicas[index].wake_s()

    def stats(self) -> RecoveryStats:
        """A snapshot."""
        return RecoveryStats(
            num_losses=self._num_losses,
            num_recoveries=self._num_recoveries,
            recovery_s=self._recovery_s,
            recoveries_s=tuple(self._recoveries_s),
            phases=tuple(one.life.phase for one in self.replicas),
            reduced=tuple(one.life.is_reduced for one in self.replicas),
        )


def _is_past(time_s: float | None, now_s: float) -> bool:
    return time_s is not None and time_s <= now_s

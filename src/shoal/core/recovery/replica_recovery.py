"""The recovery of one replica: the lifecycle of its workers, and how long they may be silent."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import ReplicaLost
from shoal.core.recovery.patience import Patience
from shoal.core.recovery.wake_times import WakeTimes
from shoal.core.recovery.worker_life import Phase, ReplicaLife
from shoal.core.speed.work_size import WorkSize
from shoal.protocol.worker_messages import Generation


class ReplicaRecovery:
    """The state of one replica's workers. Schedulers call `note_sent` and `note_answered`; `Recovery` does the rest."""

    __slots__ = ("_wakes", "generation", "index", "life", "patience")

    def __init__(
        self,
        index: int,
        config: RecoveryConfig,
        row_s: float,
        *,
        row_cost: int = 1,
        generation: int = 0,
        wakes: WakeTimes | None = None,
    ) -> None:
        """The replica has its workers. Arguments as for `Recovery.add`; `wakes` is told when `wake_s` may change."""
        self.index = index
        self._wakes = wakes or WakeTimes()
        self.life = ReplicaLife(config)
        self.patience = Patience(config, row_cost)
        self.patience.start(row_s)
        self.generation = Generation(generation)
        """The generation of the workers that it has, or will have next."""

    @property
    def is_serving(self) -> bool:
        """Whether it has its workers."""
        return self.life.is_serving

    def note_sent(self, work_id: int, size: WorkSize, now_s: float) -> None:
        """Note that work was sent to the workers."""
        self.patience.note_sent(work_id, size, now_s)
        self._wakes.note_change(self.index)

    def note_answered(self, work_id: int, compute_s: Sequence[float], now_s: float) -> None:
        """Note answered work; `compute_s`: seconds of each stage, empty if nothing is to be learned from them."""
        self.life.note_work()
        self.patience.note_answered(work_id, compute_s, now_s)
        self._wakes.note_change(self.index)

    def become_ready(self, row_s: float, now_s: float, *, is_replacement: bool) -> float | None:
        """Note new workers. Returns the seconds for which it had none; None: they replace running ones."""
        pause_s = None if self.life.lost_s is None else now_s - self.life.lost_s
        if self.is_serving:
            self.generation = Generation(self.generation + 1)
        self.patience.start(row_s)
        self.life.become_ready(now_s, is_replacement=is_replacement)
        self._wakes.note_change(self.index)
        return pause_s

    def lose(self, lost: ReplicaLost, now_s: float) -> str | None:
        """Note the loss of its workers. Returns why the replica is given up; None: they will be restarted."""
        self.generation = Generation(self.generation + 1)
        self._wakes.note_change(self.index)
        return self.life.lose(
            lost.reason, lost.worker, now_s, is_final=lost.is_final, is_unreachable=lost.is_unreachable
        )

    def overdue_s(self) -> float | None:
        """The time at which its workers will count as lost because of silence; None: they owe nothing."""
        return self.patience.overdue_s() if self.is_serving else self.life.loading_overdue_s()

    def wake_s(self) -> float | None:
        """The next time at which something is due for its workers if nothing else happens; None: never."""
        phase = self.life.phase
        if phase is Phase.SERVING:
            return self.patience.overdue_s()
        return self.life.due_s if phase is Phase.WAITING else self.life.loading_overdue_s()

    def mistrust(self, now_s: float) -> ReplicaLost:
        """Take silence for a loss. Returns the event of the loss, which the caller must pass on."""
        if not self.is_serving:
            reason, worker = self.life.loading_silence(now_s), self.life.silent
        else:
            self.patience.note_mistrust(now_s)
            self._wakes.note_change(self.index)
            reason, worker = f"no answer for {self.patience.silence_s(now_s):.1f} s", None
        return ReplicaLost(replica=self.index, reason=reason, worker=worker, keep=False)

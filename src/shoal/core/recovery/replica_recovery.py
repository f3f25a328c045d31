"""What recovery knows of one replica: the lifecycle of its workers, and for how long they may be silent."""

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
    """Changes through its `Recovery`, and by the two methods that follow the work; the rest is to look at."""

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
        """The replica has its workers. Arguments as those of `Recovery.add`; `wakes`: told when `wake_s` may change."""
        self.index = index
        self._wakes = wakes or WakeTimes()
        self.life = ReplicaLife(config)
        self.patience = Patience(config, row_cost)
        self.patience.start(row_s)
        self.generation = Generation(generation)
        """of the workers that it has, or will have next"""

    @property
    def is_serving(self) -> bool:
        """Whether it has its workers."""
        return self.life.is_serving

    def note_sent(self, work_id: int, size: WorkSize, now_s: float) -> None:
        """A piece of work is on its way to the workers."""
        self.patience.note_sent(work_id, size, now_s)
        self._wakes.note_change(self.index)

    def note_answered(self, work_id: int, compute_s: Sequence[float], now_s: float) -> None:
        """A piece of work has come back; `compute_s`: seconds of each stage, empty where they say nothing."""
        self.life.note_work()
        self.patience.note_answered(work_id, compute_s, now_s)
        self._wakes.note_change(self.index)

    def become_ready(self, row_s: float, now_s: float, *, is_replacement: bool) -> float | None:
        """It has workers again, or others instead of those it had. Returns for how long it had none."""
        pause_s = None if self.life.lost_s is None else now_s - self.life.lost_s
        if self.is_serving:
            self.generation = Generation(self.generation + 1)
        self.patience.start(row_s)
        self.life.become_ready(now_s, is_replacement=is_replacement)
        self._wakes.note_change(self.index)
        return pause_s

    def lose(self, lost: ReplicaLost, now_s: float) -> str | None:
        """Its workers are gone. Returns why they are given up; None: they will be started again."""
        self.generation = Generation(self.generation + 1)
        self._wakes.note_change(self.index)
        return self.life.lose(
            lost.reason, lost.worker, now_s, is_final=lost.is_final, is_unreachable=lost.is_unreachable
        )

    def overdue_s(self) -> float | None:
        """When its workers will count as lost for being silent; None: they owe nothing."""
        return self.patience.overdue_s() if self.is_serving else self.life.loading_overdue_s()

    def wake_s(self) -> float | None:
        """When something is to be done about its workers, if nothing happens before; None: never."""
        return self.life.due_s if self.life.phase is Phase.WAITING else self.overdue_s()

    def mistrust(self, now_s: float) -> ReplicaLost:
        """Its workers are to be taken for lost because they say nothing: how that is told."""
        if not self.is_serving:
            reason, worker = self.life.loading_silence(now_s), self.life.silent
        else:
            self.patience.note_mistrust(now_s)
            self._wakes.note_change(self.index)
            reason, worker = f"no answer for {self.patience.silence_s(now_s):.1f} s", None
        return ReplicaLost(replica=self.index, reason=reason, worker=worker, keep=False)

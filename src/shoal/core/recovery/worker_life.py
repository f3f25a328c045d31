"""The lifecycle of one replica's workers, from their loss to their return."""

from __future__ import annotations

from enum import Enum, auto

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.restart import FailureHistory, Loss, decide_restart

_LOADING_TIMES_EXPECTED = 3.0
"""Multiple of the longest loading time so far, since the file may have left the page cache. A judgment."""


class Phase(Enum):
    """State of a replica's workers."""

    SERVING = auto()
    WAITING = auto()
    """Lost, and to be restarted at `due_s`."""
    STARTING = auto()
    GIVEN_UP = auto()

    @property
    def word(self) -> str:
        """The phase as a word for users."""
        return self.name.lower().replace("_", " ")


class ReplicaLife:
    """Lifecycle of one replica's workers. It is changed only by its methods; attributes are read-only.

    `now_s` is on one monotonic clock.
    """

    def __init__(self, recovery: RecoveryConfig) -> None:
        """The workers are serving."""
        self.phase = Phase.SERVING
        self.due_s = 0.0
        """When the workers are restarted; valid in phase WAITING."""
        self.without: int | None = None
        """The worker that the next start leaves out; None: all are started."""
        self.silent: int | None = None
        """The only worker that is not ready, in phase STARTING; None: not known."""
        self.lost_s: float | None = None
        """When the workers were lost; None while they serve."""
        self._waiting_for = ""
        self.is_reduced = False
        """Whether the last start left out a worker that could not be restarted."""
        self._recovery = recovery
        self._history = FailureHistory()
        self._has_worked = False
        self._ready_s = 0.0
        self._started_s = 0.0
        self._last_sign_s = 0.0
        """The latest sign of life in phase STARTING."""
        self._longest_load_s = 0.0

    @property
    def is_serving(self) -> bool:
        """Whether the workers are serving."""
        return self.phase is Phase.SERVING

    @property
    def is_given_up(self) -> bool:
        """Whether they will not be restarted; only a change of the plan can bring new ones."""
        return self.phase is Phase.GIVEN_UP

    @property
    def is_recovering(self) -> bool:
        """Whether they are lost and will be restarted."""
        return self.phase in (Phase.WAITING, Phase.STARTING)

    def is_due(self, now_s: float) -> bool:
        """Whether their restart is due."""
        return self.phase is Phase.WAITING and self.due_s <= now_s

    def note_work(self) -> None:
        """Note that the workers have answered something."""
        self._has_worked = True

    def note_progress(self, now_s: float, silent: int | None = None, waiting_for: str = "") -> None:
        """Note a sign of life of starting workers.

        `silent`: the only one that is not ready. `waiting_for`: those that are not ready, for messages.
        """
        self._last_sign_s, self.silent, self._waiting_for = now_s, silent, waiting_for

    def note_pause(self, pause_s: float) -> None:
        """Exclude a time during which nobody listened."""
        self._last_sign_s += pause_s

    def lose(
        self,
        reason: str,
        worker: int | None,
        now_s: float,
        *,
        is_final: bool = False,
        is_unreachable: bool = False,
    ) -> str | None:
        """Note the loss of the workers. Returns why they are given up; None: they will be restarted.

        Args:
            reason: how they were lost.
            worker: the worker to blame; None: not known.
            now_s: the time of the loss.
            is_final: whether new workers would fail in the same way.
            is_unreachable: whether the machine of `worker` accepts no connections.
        """
        was_long_there = now_s - self._ready_s >= self._recovery.settled_s
        loss = Loss(
            was_well=self.is_serving and (self._has_worked or was_long_there),
            was_loading=self.phase is Phase.STARTING,
            worker=worker,
            is_unreachable=is_unreachable,
            at_s=now_s,
        )
        self._history = self._history.after(loss)
        self.lost_s = now_s if self.lost_s is None else self.lost_s
        if is_final:
            self.phase = Phase.GIVEN_UP
            return reason
        restart = decide_restart(self._recovery, self._history)
        if restart is None:
            self.phase = Phase.GIVEN_UP
            num_failures = self._history.num_failures
            return reason if num_failures == 1 else f"{num_failures} failures in a row, the last: {reason}"
        self.phase, self.due_s, self.without = Phase.WAITING, now_s + restart.delay_s, restart.without
        return None

    def start(self, now_s: float) -> None:
        """Note that the workers are being restarted."""
        self.phase, self.silent, self._waiting_for = Phase.STARTING, None, ""
        self._started_s = self._last_sign_s = now_s

    def become_ready(self, now_s: float, *, is_replacement: bool = False) -> None:
        """Note that the workers serve again, or (`is_replacement`) that a complete set of new ones has replaced
        them."""
        is_own_start = self.phase is Phase.STARTING and not is_replacement
        if is_own_start:
            self._longest_load_s = max(self._longest_load_s, now_s - self._started_s)
        self.is_reduced = is_own_start and self.without is not None
        self.phase, self.lost_s, self._ready_s, self._has_worked = Phase.SERVING, None, now_s, False

    def expected_in_s(self, now_s: float) -> float | None:
        """Expected seconds until they serve again; None: not known."""
        if self.phase is not Phase.STARTING or not self._longest_load_s:
            return None
        return max(0.0, self._started_s + self._longest_load_s - now_s)

    def loading_overdue_s(self) -> float | None:
        """The time at which they will count as lost without a further sign of life; None: they are not loading."""
        if self.phase is not Phase.STARTING:
            return None
        return self._last_sign_s + self._loading_patience_s()

    def _loading_patience_s(self) -> float:
        """How long loading workers may be silent. Once a loading time is known, not much longer than that, so that a
        hung worker is noticed soon; twice as long after each failure, in case the machine has become slow."""
        expected_s = _LOADING_TIMES_EXPECTED * self._longest_load_s
        longest_s = max(self._recovery.load_timeout_s, expected_s)
        if not self._longest_load_s:
            return longest_s
        doublings = self._history.num_failures - 1
        return min(longest_s, max(self._recovery.worker_timeout_s, expected_s) * 2.0**doublings)

    def loading_silence(self, now_s: float) -> str:
        """The reason for taking silent loading workers for lost."""
        who = self._waiting_for or "workers that load"
        return f"no sign of life from {who} for {now_s - self._last_sign_s:.1f} s"

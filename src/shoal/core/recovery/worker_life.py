"""The lifecycle of one replica's workers, from their loss to their return."""

from __future__ import annotations

from enum import Enum, auto

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.restart import FailureHistory, Loss, decide_restart

_LOADING_TIMES_EXPECTED = 3.0
"""Of the longest loading so far: the file may have left the page cache. A judgment."""


class Phase(Enum):
    """State of a replica's workers."""

    SERVING = auto()
    WAITING = auto()
    """lost, to be started again when `due_s` has come"""
    STARTING = auto()
    GIVEN_UP = auto()

    @property
    def word(self) -> str:
        """For a person."""
        return self.name.lower().replace("_", " ")


class ReplicaLife:
    """Lifecycle of one replica's workers. Changes by its methods only; the rest is to look at.

    `now_s` is on one monotonic clock.
    """

    def __init__(self, recovery: RecoveryConfig) -> None:
        """They are there."""
        self.phase = Phase.SERVING
        self.due_s = 0.0
        """when they are to be started again, while they wait for that"""
        self.without: int | None = None
        """the worker that the next start is to do without"""
        self.silent: int | None = None
        """the worker that all others wait for, while they are being started; None: not known"""
        self.lost_s: float | None = None
        """when they were lost; None while they serve"""
        self._waiting_for = ""
        self.is_reduced = False
        """they were last started without one that could not be had"""
        self._recovery = recovery
        self._history = FailureHistory()
        self._has_worked = False
        self._ready_s = 0.0
        self._started_s = 0.0
        self._last_sign_s = 0.0
        """while they are being started"""
        self._longest_load_s = 0.0

    @property
    def is_serving(self) -> bool:
        """Whether they are there."""
        return self.phase is Phase.SERVING

    @property
    def is_given_up(self) -> bool:
        """Whether they will never be there again, unless the replica is given others."""
        return self.phase is Phase.GIVEN_UP

    @property
    def is_recovering(self) -> bool:
        """Whether they are to be there again."""
        return self.phase in (Phase.WAITING, Phase.STARTING)

    def is_due(self, now_s: float) -> bool:
        """Whether they are to be started now."""
        return self.phase is Phase.WAITING and self.due_s <= now_s

    def note_work(self) -> None:
        """They have answered something."""
        self._has_worked = True

    def note_progress(self, now_s: float, silent: int | None = None, waiting_for: str = "") -> None:
        """While they are being started, they live; all others wait for `silent`, if it is given.

        `waiting_for`: those that are not ready, for messages.
        """
        self._last_sign_s, self.silent, self._waiting_for = now_s, silent, waiting_for

    def note_pause(self, pause_s: float) -> None:
        """Nobody has listened for so long."""
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
        """They are lost. Returns why they are given up; None: they will be started again.

        Args:
            reason: how they were lost.
            worker: which of them is to blame; None: not known.
            now_s: see above.
            is_final: others that are started instead would fail alike.
            is_unreachable: the machine of the one to blame takes no connections.
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
        """They are being started again."""
        self.phase, self.silent, self._waiting_for = Phase.STARTING, None, ""
        self._started_s = self._last_sign_s = now_s

    def become_ready(self, now_s: float, *, is_replacement: bool = False) -> None:
        """They are there again, or others are in their place, which lack nothing."""
        is_own_start = self.phase is Phase.STARTING and not is_replacement
        if is_own_start:
            self._longest_load_s = max(self._longest_load_s, now_s - self._started_s)
        self.is_reduced = is_own_start and self.without is not None
        self.phase, self.lost_s, self._ready_s, self._has_worked = Phase.SERVING, None, now_s, False

    def expected_in_s(self, now_s: float) -> float | None:
        """When they should be there again; None: not known."""
        if self.phase is not Phase.STARTING or not self._longest_load_s:
            return None
        return max(0.0, self._started_s + self._longest_load_s - now_s)

    def loading_overdue_s(self) -> float | None:
        """When they will count as lost, if they go on loading without a sign; None: they do not load."""
        if self.phase is not Phase.STARTING:
            return None
        return self._last_sign_s + self._loading_patience_s()

    def _loading_patience_s(self) -> float:
        """Once it is known how long they load, not much longer than that, so that a hung one is noticed soon; with each
        failure twice as long, in case the machine has become slow."""
        expected_s = _LOADING_TIMES_EXPECTED * self._longest_load_s
        longest_s = max(self._recovery.load_timeout_s, expected_s)
        if not self._longest_load_s:
            return longest_s
        doublings = self._history.num_failures - 1
        return min(longest_s, max(self._recovery.worker_timeout_s, expected_s) * 2.0**doublings)

    def loading_silence(self, now_s: float) -> str:
        """What to say of that."""
        who = self._waiting_for or "workers that load"
        return f"no sign of life from {who} for {now_s - self._last_sign_s:.1f} s"

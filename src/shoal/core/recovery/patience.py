"""Patience: how long workers that owe an answer may be silent. A hung worker must be noticed soon, but one that
computes a long prompt or a large batch must never be mistaken for a hung one.

The base is `worker_timeout_s`, or `runaway_s` for work whose time depends on its data. Work that is expected to take
long gets a multiple of its expected time, which is learned from the replica's work so far and before that from a single
row computed at loading.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.speed.batch_times import BatchTimes
from shoal.core.speed.work_size import WorkSize

_TIMES_EXPECTED = 4.0
"""Multiple of the expected time that work is allowed: another program on the same cores doubles it, and a cold cache or
a fit to few observations doubles it again. A judgment."""
_LIMIT_SHARE = 0.8
"""The share of its allowance after which a worker gives up work that may never end, so that it answers in time."""
_UNKNOWN_S = 120.0
"""Expected time of work while nothing is known about the replica's speed, before doublings."""
_FORGIVING_S = 300.0
"""Patience stays doubled for so long after silence was taken for a loss. That may have been a mistake, which unanswered
work cannot show."""
_MOST_DOUBLINGS = 4


class _Sent(msgspec.Struct, frozen=True):
    """A piece of work in flight."""

    size: WorkSize
    allowance_s: float
    """Seconds that it was allowed when it was sent."""


class Patience:
    """The patience with one replica, learned from its work. `now_s` is on one monotonic clock."""

    def __init__(self, config: RecoveryConfig, row_cost: int = 1) -> None:
        """`row_cost`: the cost of the single row that is computed at loading, see `WorkSize`."""
        self._base_s = max(config.worker_timeout_s, config.runaway_s or 0.0)
        self._may_run_away = config.runaway_s is not None
        self._row_s = 0.0
        self._times: dict[int, BatchTimes] = {}
        """Fitted times for each kind of work."""
        self._known_row_cost = row_cost
        """The cost of the costliest row so far."""
        self._out: dict[int, _Sent] = {}
        """Work in flight by id, oldest first."""
        self._since_s = 0.0
        """When the replica last answered, or was sent work while it had none."""
        self._num_doublings = 0
        self._doubled_s = 0.0
        self._overdue_s: float | None = None
        """The cached result of `overdue_s`; None: not computed."""

    def start(self, row_s: float) -> None:
        """Note new workers, which took `row_s` for a single row (0: not known). Times of the old ones still count."""
        self._row_s = row_s or self._row_s
        self._out.clear()
        self._overdue_s = None

    def note_sent(self, work_id: int, size: WorkSize, now_s: float) -> None:
        """Note that work was sent."""
        allowance_s = self.allowance_s(size, now_s)
        if not self._out:
            self._since_s, self._overdue_s = now_s, now_s + allowance_s
        self._out[work_id] = _Sent(size, allowance_s)

    def note_answered(self, work_id: int, compute_s: Sequence[float], now_s: float) -> None:
        """Note answered work. Ignored if it is not in flight.

        Args:
            work_id: the id of the work.
            compute_s: seconds that each stage computed; empty if nothing is to be learned from them.
            now_s: the time of the answer.
        """
        sent = self._out.pop(work_id, None)
        if sent is None:
            return
        self._since_s, self._overdue_s = now_s, None
        if seconds := sum(compute_s):
            size = sent.size
            times = self._times.get(size.kind)
            if times is None:
                times = self._times[size.kind] = BatchTimes()
            times.observe(size.amount, seconds, now_s)
            self._known_row_cost = max(self._known_row_cost, size.row_cost)

    def note_pause(self, pause_s: float) -> None:
        """Exclude a time during which nobody listened."""
        self._since_s += pause_s
        self._overdue_s = None

    def note_mistrust(self, now_s: float) -> None:
        """Double the patience, because silence was taken for a loss."""
        self._num_doublings = min(self._doublings(now_s) + 1, _MOST_DOUBLINGS)
        self._doubled_s, self._overdue_s = now_s, None

    def overdue_s(self) -> float | None:
        """The time at which the replica will have been silent for too long; None: no work is in flight."""
        if not self._out:
            return None
        if self._overdue_s is None:
            oldest = next(iter(self._out.values()))
            allowance_s = max(oldest.allowance_s, self.allowance_s(oldest.size, self._since_s))
            self._overdue_s = self._since_s + allowance_s
        return self._overdue_s

    def silence_s(self, now_s: float) -> float:
        """Seconds for which the replica has owed an answer."""
        return now_s - self._since_s

    def allowance_s(self, size: WorkSize, now_s: float) -> float:
        """Seconds allowed for work if it is sent now to an idle replica."""
        expected_s = self._expected_s(size)
        long_s = _UNKNOWN_S if expected_s is None else _TIMES_EXPECTED * expected_s
        if self._num_doublings:
            long_s *= 2.0 ** self._doublings(now_s)
        return max(self._base_s, long_s)

    def limit_s(self, size: WorkSize, now_s: float) -> float | None:
        """Seconds after which a worker should give up work sent now, so that it does not count as lost; None: never."""
        return _LIMIT_SHARE * self.allowance_s(size, now_s) if self._may_run_away else None

    def _expected_s(self, size: WorkSize) -> float | None:
        """Expected seconds for work, from work of its own kind, else of another kind, else from a single row.

        Rows that cost more than any known one are expected to take more than in proportion, as attention does.
        """
        stretch = max(1.0, size.row_cost / self._known_row_cost)
        times = self._times.get(size.kind)
        if times is None:
            times = next(iter(self._times.values()), None)
        if times is None:
            return self._row_s * size.rows * stretch**2 or None
        return times.predict(size.amount) * stretch

    def _doublings(self, now_s: float) -> int:
        return self._num_doublings if now_s - self._doubled_s < _FORGIVING_S else 0

"""How long workers may be silent while they owe an answer: a worker that hangs is to be found soon, one that computes
a long prompt or a large batch must never be taken for one that hangs.

The base is `worker_timeout_s`, or `runaway_s` for work that takes as long as its data say. Where the work that is due
should take long by itself, its expected time counts, several times. That comes from the work of this replica so far;
before there is any, from a single row computed at loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.speed.batch_times import BatchTimes
from shoal.core.speed.work_size import WorkSize

_TIMES_EXPECTED = 4.0
"""Of a piece of work's expected time: another program on the same cores doubles it, a cold cache or a fit on few pieces
again. A judgment."""
_LIMIT_SHARE = 0.8
"""Of an allowance: by then a worker gives work up that may never end, so that it answers before it counts as lost."""
_UNKNOWN_S = 120.0
"""Where nothing at all is known of a replica's speed."""
_FORGIVING_S = 300.0
"""For so long after silence was taken for loss, patience stays doubled: it may have been a mistake, and the work that
would show it was never answered."""
_MOST_DOUBLINGS = 4


@dataclass(frozen=True, slots=True)
class _Sent:
    """A piece of work that is out."""

    size: WorkSize
    allowance_s: float
    """that it was given when it was sent"""


class Patience:
    """Follows the work of one replica. `now_s` is on one monotonic clock."""

    def __init__(self, config: RecoveryConfig, row_cost: int = 1) -> None:
        """`row_cost`: of the single row that is computed at loading, see `WorkSize`."""
        self._base_s = max(config.worker_timeout_s, config.runaway_s or 0.0)
        self._may_run_away = config.runaway_s is not None
        self._row_s = 0.0
        self._times: dict[int, BatchTimes] = {}
        """by the kind of work"""
        self._known_row_cost = row_cost
        """of the costliest row so far"""
        self._out: dict[int, _Sent] = {}
        """by its id: sent and not answered, oldest first"""
        self._since_s = 0.0
        """when it last answered, or was sent something while it owed nothing"""
        self._num_doublings = 0
        self._doubled_s = 0.0
        self._overdue_s: float | None = None
        """what `overdue_s` has found, until something changes; None: not known"""

    def start(self, row_s: float) -> None:
        """Other workers are there, which took `row_s` for a single row; 0: not known. What the old took counts on."""
        self._row_s = row_s or self._row_s
        self._out.clear()
        self._overdue_s = None

    def note_sent(self, work_id: int, size: WorkSize, now_s: float) -> None:
        """A piece of work is on its way."""
        if not self._out:
            self._since_s = now_s
            self._overdue_s = None
        self._out[work_id] = _Sent(size, self.allowance_s(size, now_s))

    def note_answered(self, work_id: int, compute_s: Sequence[float], now_s: float) -> None:
        """A piece of work has come back. One that is not out is ignored.

        Args:
            work_id: of the piece.
            compute_s: seconds of each stage; empty where they say nothing.
            now_s: see above.
        """
        sent = self._out.pop(work_id, None)
        if sent is None:
            return
        self._since_s, self._overdue_s = now_s, None
        if seconds := sum(compute_s):
            self._times.setdefault(sent.size.kind, BatchTimes()).observe(sent.size.amount, seconds, now_s)
            self._known_row_cost = max(self._known_row_cost, sent.size.row_cost)

    def note_pause(self, pause_s: float) -> None:
        """Nobody has listened for so long."""
        self._since_s += pause_s
        self._overdue_s = None

    def note_mistrust(self, now_s: float) -> None:
        """It was silent for too long and is given up for lost."""
        self._num_doublings = min(self._doublings(now_s) + 1, _MOST_DOUBLINGS)
        self._doubled_s, self._overdue_s = now_s, None

    def overdue_s(self) -> float | None:
        """When it will have been silent for too long, if it stays so; None: it owes nothing."""
        if not self._out:
            return None
        if self._overdue_s is None:
            oldest = next(iter(self._out.values()))
            allowance_s = max(oldest.allowance_s, self.allowance_s(oldest.size, self._since_s))
            self._overdue_s = self._since_s + allowance_s
        return self._overdue_s

    def silence_s(self, now_s: float) -> float:
        """For how long it has owed an answer."""
        return now_s - self._since_s

    def allowance_s(self, size: WorkSize, now_s: float) -> float:
        """How long a piece of work may take, were it sent now to a replica that owes nothing."""
        expected_s = self._expected_s(size)
        long_s = _UNKNOWN_S if expected_s is None else _TIMES_EXPECTED * expected_s
        return max(self._base_s, long_s * 2.0 ** self._doublings(now_s))

    def limit_s(self, size: WorkSize, now_s: float) -> float | None:
        """When a worker is to give up work that is sent now, so that it does not count as lost; None: never."""
        return _LIMIT_SHARE * self.allowance_s(size, now_s) if self._may_run_away else None

    def _expected_s(self, size: WorkSize) -> float | None:
        """Work of another kind says more than a single row: what a row costs is at most that of an output row.

        Rows that cost more than any known one are expected to take as much more again, as attention does.
        """
        stretch = max(1.0, size.row_cost / self._known_row_cost)
        times = self._times.get(size.kind) or next(iter(self._times.values()), None)
        if times is None:
            return self._row_s * size.rows * stretch**2 or None
        return times.predict(size.amount) * stretch

    def _doublings(self, now_s: float) -> int:
        return self._num_doublings if now_s - self._doubled_s < _FORGIVING_S else 0

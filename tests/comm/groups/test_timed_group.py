"""The stopwatch round a group, on a clock that the group itself moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from typing_extensions import Buffer

from shoal.arrays import F32
from shoal.comm.groups.timed_group import TimedGroup
from shoal.errors import WorkerLost


class SlowGroup:
    """Alone in its group; every call takes a second."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.now_s = 0.0
        self.is_closed = False

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        self.now_s += 1.0
        x *= 2
        if timeout_s <= 0:
            raise WorkerLost("too late")

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        self.now_s += 1.0
        memoryview(out[0])[:] = memoryview(part)

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        self.now_s += 1.0

    def close(self) -> None:
        self.is_closed = True


def test_calls_are_passed_on_and_their_time_is_told_once() -> None:
    group = SlowGroup()
    timed = TimedGroup(group, clock=lambda: group.now_s)
    x, gathered = np.ones(3, np.float32), bytearray(2)
    timed.all_reduce(x, timeout_s=1.0)
    timed.all_gather(b"ab", [gathered], timeout_s=1.0)
    group.now_s += 10.0
    timed.broadcast(b"", root=0, timeout_s=1.0)
    assert (x.tolist(), bytes(gathered)) == ([2.0, 2.0, 2.0], b"ab")
    assert (timed.rank, timed.size) == (0, 1)
    assert timed.take_wait_s() == 3.0
    assert timed.take_wait_s() == 0.0
    timed.close()
    assert group.is_closed


def test_sums_within_a_deadline_are_timed_too() -> None:
    group = SlowGroup()
    timed = TimedGroup(group, clock=lambda: group.now_s)
    x = np.ones(3, np.float32)
    timed.sum_within(1.0)(x)
    assert (x.tolist(), timed.take_wait_s()) == ([2.0, 2.0, 2.0], 1.0)
    with pytest.raises(WorkerLost, match="too late"):
        timed.sum_within(0.0)(x)


def test_errors_come_through() -> None:
    group = SlowGroup()
    with pytest.raises(WorkerLost, match="too late"):
        TimedGroup(group, clock=lambda: group.now_s).all_reduce(np.ones(1, np.float32), timeout_s=0.0)

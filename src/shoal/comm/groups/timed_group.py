"""A group that measures how long its calls take, both exchanging data and waiting for later ranks.

The group behind it can be replaced when its ranks are gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import Buffer

from shoal.arrays import F32
from shoal.comm.groups.shm_group import SharedMemoryGroup
from shoal.core.collectives import ProcessGroup

if TYPE_CHECKING:
    from shoal._native import GroupSum


class TimedGroup:
    """Forwards all calls to another group. Implements `core.collectives.SummingGroup`."""

    def __init__(self, group: ProcessGroup | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        """`group`: None: nothing can be called before `renew`."""
        self._behind = group
        self._clock = clock
        self._wait_s = 0.0
        self._native: GroupSum | None = None

    def renew(self, group: ProcessGroup) -> None:
        """Forward to this group from now on. The owner of the previous one closes it."""
        self._drop_native_sum()
        self._behind = group

    @property
    def rank(self) -> int:
        """See ProcessGroup."""
        return self._group.rank

    @property
    def size(self) -> int:
        """See ProcessGroup."""
        return self._group.size

    @property
    def _group(self) -> ProcessGroup:
        assert self._behind is not None, "the group has not been joined"
        return self._behind

    def take_wait_s(self) -> float:
        """Seconds spent in calls since the last call of this method."""
        wait_s, self._wait_s = self._wait_s, 0.0
        return wait_s + (self._native.take_wait_s() if self._native else 0.0)

    def sum_within(self, timeout_s: float) -> Callable[[F32], None]:
        """See SummingGroup."""
        self._drop_native_sum()
        if isinstance(self._group, SharedMemoryGroup):
            self._native = self._group.native_sum(timeout_s)
        return self._native or partial(self.all_reduce, timeout_s=timeout_s)

    def _drop_native_sum(self) -> None:
        if self._native is not None:
            self._wait_s += self._native.take_wait_s()
            self._native = None

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        """See ProcessGroup."""
        started_s = self._clock()
        self._group.all_reduce(x, timeout_s=timeout_s)
        self._wait_s += self._clock() - started_s

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        """See ProcessGroup."""
        started_s = self._clock()
        self._group.all_gather(part, out, timeout_s=timeout_s)
        self._wait_s += self._clock() - started_s

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        """See ProcessGroup."""
        started_s = self._clock()
        self._group.broadcast(data, root=root, timeout_s=timeout_s)
        self._wait_s += self._clock() - started_s

    def close(self) -> None:
        """See ProcessGroup."""
        self._group.close()

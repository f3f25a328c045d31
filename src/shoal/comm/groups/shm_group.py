"""A group of ranks on one machine: sums, gathers and broadcasts through memory that all of them hold.

Small tensors are summed at once: every rank writes its own and adds up all. Larger ones are reduced in segments: every
rank adds up one segment and passes it to the others. Both add in rank order, so the bits do not depend on which one
ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import Buffer

from shoal.arrays import F32
from shoal.comm.groups.group_memory import CallFailure, CallKind, create_group_memory
from shoal.comm.groups.python_group import PythonCollective
from shoal.comm.groups.python_member import Failed
from shoal.errors import ProtocolError, RemoteProtocolError, WorkerLost

if TYPE_CHECKING:
    from shoal._native import GroupSum
try:
    from shoal._native import Collective
    from shoal._native import GroupSum as NativeSum
except ImportError:  # no compiler at installation: slower, the same behavior
    Collective, NativeSum = PythonCollective, None

__all__ = ["DEFAULT_SWITCH_BYTES", "SharedMemoryGroup", "close_group", "create_group_memory"]

DEFAULT_SWITCH_BYTES = 8 << 10
"""Source: 2 ranks on 2 cores, at once and in segments: 4 KB 2.5 and 2.8 us, 8 KB 4.0 and 3.7, 32 KB 11.9 and 9.8
(medians, 2026-11-24); `comm.groups.switch` measures it for the machine and the group at hand."""


class SharedMemoryGroup:
    """See `ProcessGroup`. One thread of a rank calls at a time; `close` may be called from any thread."""

    def __init__(
        self,
        fd: int,
        *,
        rank: int,
        size: int,
        generation: int,
        switch_bytes: int | None = None,
        stays_awake: bool = True,
    ) -> None:
        """Join the group. The first call waits for the others; joining does not.

        Args:
            fd: of `create_group_memory(size)`; it may be closed afterwards. A group that has lost a rank cannot be
                repaired: its survivors create another one, of a later generation, on new memory.
            rank: 0 <= rank < size; each joins once.
            generation: the same on all ranks, otherwise the first call raises RemoteProtocolError.
            switch_bytes: larger tensors are summed in segments. The same on all ranks.
            stays_awake: whether to spin and yield before sleeping. Not if CPU time is limited by a quota, which waiting
                would use up (docs/log.md, 2026-11-26).

        Raises:
            ValueError: fd is not the memory of such a group, or the rank has joined before.
        """
        self._collective = Collective(fd, rank, size, generation, stays_awake)
        self._rank, self._size = rank, size
        self.switch_bytes = DEFAULT_SWITCH_BYTES if switch_bytes is None else switch_bytes
        """Tensors above this many bytes are reduced in segments; may be set between calls, to the same value on all
        ranks."""

    @property
    def rank(self) -> int:
        """See `ProcessGroup.rank`."""
        return self._rank

    @property
    def size(self) -> int:
        """See `ProcessGroup.size`."""
        return self._size

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        """See `ProcessGroup.all_reduce`. Raises ValueError for anything but C-contiguous writable float32."""
        if failed := self._collective.all_reduce(x, self._size > 1 and x.nbytes > self.switch_bytes, timeout_s):
            raise self._error(failed, timeout_s)

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `ProcessGroup.all_gather`. Raises ValueError if `out` does not fit this rank's part."""
        if failed := self._collective.all_gather(part, out, timeout_s):
            raise self._error(failed, timeout_s)

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        """See `ProcessGroup.broadcast`. Raises ValueError for a root outside the group."""
        if failed := self._collective.broadcast(data, root, timeout_s):
            raise self._error(failed, timeout_s)

    def native_sum(self, timeout_s: float) -> GroupSum | None:
        """`all_reduce` for native code, with this deadline and the present `switch_bytes`; None without the
        extension."""
        if NativeSum is None or isinstance(self._collective, PythonCollective):
            return None
        return NativeSum(self._collective, self.switch_bytes, timeout_s, partial(self._fail, timeout_s))

    def close(self) -> None:
        """See `ProcessGroup.close`."""
        self._collective.close()

    def _fail(self, timeout_s: float, failure: int, rank: int) -> NoReturn:
        raise self._error((failure, rank), timeout_s)

    def _error(self, failed: Failed, timeout_s: float) -> WorkerLost | ProtocolError:
        failure, rank = failed
        match CallFailure(failure):
            case CallFailure.DEAD:
                return WorkerLost(f"rank {rank} of the group is dead")
            case CallFailure.LATE:
                return WorkerLost(f"rank {rank} of the group did not come within {timeout_s:g} s")
            case CallFailure.LEFT:
                return WorkerLost(f"rank {rank} of the group is gone")
            case CallFailure.MISMATCH:
                return RemoteProtocolError(f"rank {rank} called {self._call(rank)}, this rank {self._call(self._rank)}")
            case CallFailure.CLOSED:
                return WorkerLost(f"the group was closed by this rank, {rank}")

    def _call(self, rank: int) -> str:
        operation, num_bytes, generation = self._collective.call_of(rank)
        name = CallKind(operation).name if operation in list(CallKind) else f"operation {operation}"
        return f"{name} of {num_bytes} bytes in generation {generation}"


def close_group(fd: int, size: int) -> None:
    """Take the places that no rank has taken, and leave them, so that nobody waits for a rank that will not come.

    Ranks that have joined leave by themselves, or are found dead.
    """
    for rank in range(size):
        with suppress(ValueError):
            Collective(fd, rank, size, 0, False).close()

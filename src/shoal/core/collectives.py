"""Collectives of the shards of one stage: the interface of a process group, and even division of a tensor.

A shard is one rank of its stage's group. All ranks make the same calls in the same order, and results are bit for bit
the same on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from typing_extensions import Buffer

from shoal.arrays import F32

MAX_RANKS = 16


class ProcessGroup(Protocol):
    """A group of ranks, each in a process of its own, in the same order everywhere.

    Every call has a deadline. If a peer is dead or late, all survivors raise `WorkerLost`; the group cannot be used any
    more, and the survivors may join a new one of a later generation.
    """

    @property
    def rank(self) -> int:
        """This process's rank, 0 <= rank < size."""
        ...

    @property
    def size(self) -> int:
        """Number of ranks, 1 to MAX_RANKS."""
        ...

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        """Sum over the ranks, in rank order.

        Args:
            x: C-contiguous, of the same size on every rank. Mutates: becomes the sum.

        Raises:
            WorkerLost: a peer is dead, or did not make the call within timeout_s.
            RemoteProtocolError: a peer made another call, or used another size.
        """
        ...

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        """Copy every rank's bytes to every rank.

        Args:
            part: this rank's bytes.
            out: for each rank a writable buffer of exactly its part's size; sizes may differ. Mutates: filled.

        Raises: as `all_reduce`.
        """
        ...

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        """Copy the root's bytes to every rank.

        Args:
            data: a buffer of the same size on every rank. Mutates: overwritten on all ranks but the root.

        Raises: as `all_reduce`.
        """
        ...

    def close(self) -> None:
        """Leave the group; peers that wait for this rank learn of it at once. Idempotent."""
        ...


class SummingGroup(ProcessGroup, Protocol):
    """A group whose sum can be passed to native code as a callable."""

    def sum_within(self, timeout_s: float) -> Callable[[F32], None]:
        """A callable that does `all_reduce` with this time-out. Valid until the group's ranks change.

        If it is an object of the extension (`_native.GroupSum`), native code runs it without calling Python.
        """
        ...


def even_ranges(total: int, num_parts: int) -> list[tuple[int, int]]:
    """Contiguous [first, last) ranges of `total` items whose sizes differ by at most one, the larger ones first."""
    small, num_large = divmod(total, num_parts)
    starts = [part * small + min(part, num_large) for part in range(num_parts + 1)]
    return [(starts[part], starts[part + 1]) for part in range(num_parts)]

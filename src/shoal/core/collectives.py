"""What the shards of one stage do together: the interface of a group, and who owns what of a tensor.

A shard is one rank of its stage's group. All ranks make the same calls in the same order; results are the same bits on
every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from typing_extensions import Buffer

from shoal.arrays import F32

MAX_RANKS = 16


class ProcessGroup(Protocol):
    """The ranks of one group, each in a process of its own, in the same order everywhere.

    Every call has a deadline. A peer that is dead or does not come in time raises `WorkerLost` on all survivors; the
    group is then of no more use, and the survivors may join another one of a later generation.
    """

    @property
    def rank(self) -> int:
        """This process's place, 0 <= rank < size."""
        ...

    @property
    def size(self) -> int:
        """Number of ranks, 1 to MAX_RANKS."""
        ...

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        """Sum over the ranks, in rank order.

        Args:
            x: C-contiguous, of the same size everywhere. Mutates: becomes the sum.

        Raises:
            WorkerLost: a peer is dead, or did not come within timeout_s.
            RemoteProtocolError: a peer called something else, or with another size.
        """
        ...

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        """Every rank's bytes, on every rank.

        Args:
            part: this rank's.
            out: for each rank a writable buffer of exactly its part's size (sizes may differ). Mutates: filled.

        Raises: as `all_reduce`.
        """
        ...

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        """Copy the root's bytes to every rank.

        Args:
            data: of the same size everywhere. Mutates: on all ranks but the root.

        Raises: as `all_reduce`.
        """
        ...

    def close(self) -> None:
        """Leave; peers that wait for this rank learn of it at once. Idempotent."""
        ...


class SummingGroup(ProcessGroup, Protocol):
    """A group whose sums may be handed to native code."""

    def sum_within(self, timeout_s: float) -> Callable[[F32], None]:
        """`all_reduce` with the same deadline for every call; for as long as the group's ranks stay the same.

        Where it is the extension's own (`_native.GroupSum`), native code runs it without a call of Python.
        """
        ...


def even_ranges(total: int, num_parts: int) -> list[tuple[int, int]]:
    """Contiguous [first, last) ranges of `total` items whose sizes differ by at most one, the larger ones first."""
    small, num_large = divmod(total, num_parts)
    starts = [part * small + min(part, num_large) for part in range(num_parts + 1)]
    return [(starts[part], starts[part + 1]) for part in range(num_parts)]

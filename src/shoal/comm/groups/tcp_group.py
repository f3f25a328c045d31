"""Collectives over TCP, for the ranks of several machines.

Every rank has a connection to every other one (`tls_mesh`). Small tensors are sent whole to all ranks, each of which
sums them; of large ones every rank sums one segment and sends the sum to the others (reduce-scatter, then all-gather:
R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", 2005, section
4.5). Elements are summed in rank order, so both ways give the same bits on every rank.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence

import numpy as np
from typing_extensions import Buffer

from shoal.arrays import F32
from shoal.comm.groups.tcp_exchange import Exchange
from shoal.comm.groups.tcp_message import Operation
from shoal.core.collectives import MAX_RANKS, even_ranges

DEFAULT_SWITCH_BYTES = 512 << 10
"""Used if nothing was measured (`switch.measure_switch` does). Source: benchmarks/collectives.py, 2 ranks over the
loopback."""


class TcpGroup:
    """A `ProcessGroup` over connected sockets, which it owns.

    A rank whose call failed has left the group: it tells the others why, and every later call raises the same error.
    `broadcast` is not a barrier: the root continues once the sockets have taken its bytes.
    """

    def __init__(
        self,
        peers: Mapping[int, socket.socket],
        *,
        rank: int,
        size: int,
        generation: int,
        switch_bytes: int = DEFAULT_SWITCH_BYTES,
    ) -> None:
        """Does not wait.

        Args:
            peers: for each other rank, a socket whose far end is that rank's socket for this one.
            generation: rises by one whenever a group is rebuilt; messages of another generation are refused.
            switch_bytes: larger tensors are summed in segments. The same on all ranks.

        Raises:
            ValueError: the peers are not exactly all other ranks.
        """
        if not 0 <= rank < size <= MAX_RANKS or sorted(peers) != [other for other in range(size) if other != rank]:
            raise ValueError(f"rank {rank} of {size} has connections to ranks {sorted(peers)}")
        self.switch_bytes = switch_bytes
        self._rank = rank
        self._size = size
        self._exchange = Exchange(peers, rank=rank, generation=generation)
        self._inboxes: dict[int, tuple[F32, memoryview]] = {}

    @property
    def rank(self) -> int:
        """See `ProcessGroup.rank`."""
        return self._rank

    @property
    def size(self) -> int:
        """See `ProcessGroup.size`."""
        return self._size

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        """See `ProcessGroup.all_reduce`. Raises ValueError if x is not contiguous, writable float32."""
        if x.dtype != np.float32 or not (x.flags.c_contiguous and x.flags.writeable):
            raise ValueError("only contiguous, writable float32 tensors are summed")
        if x.nbytes <= self.switch_bytes:
            self._sum_whole(x.reshape(-1), time.monotonic() + timeout_s)
        else:
            self._sum_in_segments(x.reshape(-1), time.monotonic() + timeout_s)

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `ProcessGroup.all_gather`. Raises ValueError if `out` does not fit the group or the part."""
        data, targets = _bytes_of(part), [_bytes_of(target) for target in out]
        if len(targets) != self._size or len(targets[self._rank]) != len(data):
            raise ValueError(f"{len(data)} bytes of rank {self._rank} cannot be gathered into {len(targets)} buffers")
        others, deadline_s = self._others(), time.monotonic() + timeout_s
        receives = {rank: targets[rank] for rank in others}
        self._exchange.run(Operation.GATHER, dict.fromkeys(others, data), receives, deadline_s=deadline_s)
        targets[self._rank][:] = data

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        """See `ProcessGroup.broadcast`. Raises ValueError if there is no such root."""
        if not 0 <= root < self._size:
            raise ValueError(f"no rank {root} in a group of {self._size}")
        view = _bytes_of(data)
        sends = dict.fromkeys(self._others(), view) if root == self._rank else {}
        receives = {} if root == self._rank else {root: view}
        self._exchange.run(Operation.BROADCAST, sends, receives, deadline_s=time.monotonic() + timeout_s)

    def close(self) -> None:
        """See `ProcessGroup.close`."""
        self._exchange.close()

    def _others(self) -> list[int]:
        return [rank for rank in range(self._size) if rank != self._rank]

    def _sum_whole(self, x: F32, deadline_s: float) -> None:
        """One-shot: all ranks get everything, and sum all of it."""
        others, data = self._others(), _bytes_of(x.data)
        parts, receives = self._inboxes_for(x)
        self._exchange.run(Operation.SUM, dict.fromkeys(others, data), receives, deadline_s=deadline_s)
        _sum_in_rank_order(parts, x)

    def _sum_in_segments(self, x: F32, deadline_s: float) -> None:
        """Reduce-scatter, then all-gather, the latter directly into `x`."""
        others = self._others()
        segments = [x[first:last] for first, last in even_ranges(x.size, self._size)]
        views = [_bytes_of(segment.data) for segment in segments]
        own = segments[self._rank]
        parts, receives = self._inboxes_for(own)
        self._exchange.run(Operation.SEGMENT, {r: views[r] for r in others}, receives, deadline_s=deadline_s)
        _sum_in_rank_order(parts, own)
        sums = dict.fromkeys(others, views[self._rank])
        self._exchange.run(Operation.SUMMED_SEGMENT, sums, {r: views[r] for r in others}, deadline_s=deadline_s)

    def _inboxes_for(self, own: F32) -> tuple[list[F32], dict[int, memoryview]]:
        """All ranks' parts in order, with those of others in memory that is kept between calls, and this memory as
        bytes."""
        parts, views = [own] * self._size, dict[int, memoryview]()
        for rank in self._others():
            inbox = self._inboxes.get(rank)
            if inbox is None or inbox[0].size < own.size:
                floats = np.empty(own.size, np.float32)
                inbox = self._inboxes[rank] = floats, _bytes_of(floats.data)
            parts[rank], views[rank] = inbox[0][: own.size], inbox[1][: own.nbytes]
        return parts, views


def _sum_in_rank_order(parts: Sequence[F32], out: F32) -> None:
    """((p0 + p1) + p2) + ... into `out`, which may be any of the parts. Mutates: the first part, too."""
    total = parts[0]
    for part in parts[1:-1]:
        np.add(total, part, out=total)
    if len(parts) > 1:
        np.add(total, parts[-1], out=out)


def _bytes_of(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(bytearray())

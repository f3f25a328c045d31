"""A worker's links to its neighbours: laid anew for every generation."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from shoal.comm.groups.shm_group import SharedMemoryGroup
from shoal.comm.groups.switch import SwitchedGroup
from shoal.comm.links.link import Link
from shoal.comm.links.ring_link import RingReceiver, RingSender
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.protocol.messages import LoadStage, Wire

_HANDOVER_TIMEOUT_S = 10.0
"""Descriptors are on their way before the message that announces them."""
_MAX_FDS = 253
"""Source: SCM_MAX_FD of Linux, the most that one message carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLinks:
    """What a worker shares with its neighbours in one generation. Close it."""

    upstream: Link | None = None
    """None in the first stage"""
    downstream: Sequence[Link] = ()
    group: SwitchedGroup | None = None
    """of the stage's shards; None where there is only one"""

    def close(self) -> None:
        """Leave; neighbours that wait for this worker learn of it."""
        for link in (self.upstream, *self.downstream, self.group):
            if link is not None:
                link.close()


class Connector(Protocol):
    """How the links are laid."""

    def connect(self, wire: Wire, load: LoadStage) -> StageLinks:
        """Raises WorkerLost where a neighbour does not come, RemoteProtocolError where the message makes no sense."""
        ...


class LocalConnector:
    """Rings and shared memory on this machine. The head hands the descriptors over a Unix socket, in the message's
    order: upstream, downstream, group."""

    def __init__(self, handover: socket.socket) -> None:
        self._handover = handover

    def connect(self, wire: Wire, load: LoadStage) -> StageLinks:
        """See `Connector`."""
        num_fds = (wire.upstream is not None) + len(wire.downstream) + bool(wire.group)
        with ExitStack() as owned:
            fds = self._receive_fds(num_fds, owned)
            upstream = None if wire.upstream is None else RingReceiver(next(fds))
            downstream = [RingSender(next(fds)) for _ in wire.downstream]
            group = _join(next(fds), wire, load) if wire.group else None
        return StageLinks(upstream=upstream, downstream=downstream, group=group)

    def _receive_fds(self, count: int, owned: ExitStack) -> Iterator[int]:
        """To be closed with `owned`: what is mapped stays mapped."""
        if not count:
            return iter(())
        poll = select.poll()
        poll.register(self._handover, select.POLLIN)
        if not poll.poll(_HANDOVER_TIMEOUT_S * 1e3):
            raise WorkerLost(f"the head handed no descriptors over within {_HANDOVER_TIMEOUT_S:.0f} s")
        _, fds, _, _ = socket.recv_fds(self._handover, 1, _MAX_FDS)
        for fd in fds:
            owned.callback(os.close, fd)
        if len(fds) != count:
            raise RemoteProtocolError(f"the head handed {len(fds)} descriptors over, not {count}")
        return iter(fds)


def _join(fd: int, wire: Wire, load: LoadStage) -> SharedMemoryGroup:
    try:
        return SharedMemoryGroup(
            fd,
            rank=load.rank,
            size=load.num_shards,
            generation=wire.generation,
            stays_awake=load.cpu_quota is None,
        )
    except ValueError as error:  # the head closed it before this rank came
        raise WorkerLost(f"the group cannot be joined: {error}") from error

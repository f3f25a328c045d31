"""A worker's links to its neighbors, which are created again for every generation."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from shoal.comm.groups.shm_group import SharedMemoryGroup
from shoal.comm.groups.switch import SwitchedGroup
from shoal.comm.links.arena import ReceivingArena, SendingArena
from shoal.comm.links.link import Link
from shoal.comm.links.ring_link import RingReceiver, RingSender
from shoal.comm.links.socket_link import SocketLink
from shoal.comm.links.tensor_link import TensorLink
from shoal.comm.links.tensor_port import SharedPort, TensorPort
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.protocol.worker_messages import Wire

_HANDOVER_TIMEOUT_S = 10.0
"""Descriptors are sent before the message that announces them."""
_MAX_FDS = 253
"""Most descriptors in one message. Source: SCM_MAX_FD of Linux."""

LinkT = TypeVar("LinkT", Link, TensorLink)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLinks(Generic[LinkT]):
    """A worker's links to its neighbors in one generation. Must be closed."""

    sources: Mapping[int, LinkT] = field(default_factory=dict[int, LinkT])
    """Links from one shard of each stage that feeds this one, by stage."""
    consumers: Sequence[tuple[int, LinkT]] = ()
    """Links to shards of later stages, each with its stage."""
    group: SwitchedGroup | None = None
    """The group of the stage's shards; None: there is only one shard."""

    def close(self) -> None:
        """Close the links; neighbors that wait for this worker learn of it."""
        for link in (*self.sources.values(), *(link for _, link in self.consumers)):
            link.close()
        if self.group is not None:
            self.group.close()


class Seat(Protocol):
    """A worker's place among the shards of its stage."""

    @property
    def rank(self) -> int:
        """Number of this worker among the shards."""
        ...

    @property
    def num_shards(self) -> int:
        """Number of workers of the stage."""
        ...


class Connector(Protocol):
    """Creates links. Both methods raise WorkerLost if a neighbor does not connect, and RemoteProtocolError if the
    message is invalid."""

    def connect(self, wire: Wire, seat: Seat, *, stays_awake: bool) -> StageLinks[Link]:
        """Links for hidden states; `stays_awake`: whether a rank that waits for others may keep its core busy."""
        ...

    def connect_tensors(self, wire: Wire, seat: Seat) -> tuple[StageLinks[TensorLink], TensorPort]:
        """Links for tensors, and the port by which the head and this worker exchange tensors."""
        ...


class LocalConnector:
    """Creates links of memory and sockets on this machine. The head passes descriptors over a Unix socket, in the
    message's order: sources, consumers, group.

    A link for hidden states is one ring; one for tensors is a socket and an arena. The two arenas of the head's own
    port come first: the one that this worker writes, then the one that it reads.
    """

    def __init__(self, handover: socket.socket) -> None:
        self._handover = handover

    def connect(self, wire: Wire, seat: Seat, *, stays_awake: bool) -> StageLinks[Link]:
        """See `Connector.connect`."""
        with ExitStack() as owned:
            fds = self._receive_fds(len(wire.sources) + len(wire.consumers) + bool(wire.group), owned)
            sources: dict[int, Link] = {one.stage: RingReceiver(next(fds)) for one in wire.sources}
            consumers: list[tuple[int, Link]] = [(one.stage, RingSender(next(fds))) for one in wire.consumers]
            group = _join(next(fds), wire, seat, stays_awake=stays_awake) if wire.group else None
        return StageLinks(sources=sources, consumers=consumers, group=group)

    def connect_tensors(self, wire: Wire, seat: Seat) -> tuple[StageLinks[TensorLink], TensorPort]:
        """See `Connector.connect_tensors`."""
        num_links = len(wire.sources) + len(wire.consumers)
        with ExitStack() as owned:
            fds = self._receive_fds(2 + 2 * num_links + bool(wire.group), owned)
            port = SharedPort(outgoing=SendingArena(next(fds)), incoming=ReceivingArena(next(fds)))
            sources = {
                one.stage: TensorLink(_socket(next(fds)), SharedPort(outgoing=None, incoming=ReceivingArena(next(fds))))
                for one in wire.sources
            }
            consumers = [
                (
                    one.stage,
                    TensorLink(_socket(next(fds)), SharedPort(outgoing=SendingArena(next(fds)), incoming=None)),
                )
                for one in wire.consumers
            ]
            group = _join(next(fds), wire, seat, stays_awake=True) if wire.group else None
        return StageLinks(sources=sources, consumers=consumers, group=group), port

    def _receive_fds(self, count: int, owned: ExitStack) -> Iterator[int]:
        """Descriptors that are closed with `owned`; mappings of them stay valid."""
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


def _socket(fd: int) -> SocketLink:
    """A link with a copy of the descriptor, which its owner still has to close."""
    return SocketLink(socket.socket(fileno=os.dup(fd)))


def _join(fd: int, wire: Wire, seat: Seat, *, stays_awake: bool) -> SharedMemoryGroup:
    try:
        return SharedMemoryGroup(
            fd, rank=seat.rank, size=seat.num_shards, generation=wire.generation, stays_awake=stays_awake
        )
    except ValueError as error:  # the head closed the group before this rank joined
        raise WorkerLost(f"the group cannot be joined: {error}") from error

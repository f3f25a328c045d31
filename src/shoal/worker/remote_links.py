"""A worker's links to neighbors on other machines: TLS connections, accepted by each worker's own listener.

A neighbor is named "host:port/key": the address of its listener and the key to connect with. One that connects to this
worker is named "/key".
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from shoal.comm.groups.tcp_group import TcpGroup
from shoal.comm.links.link import Link
from shoal.comm.links.tensor_link import TensorLink
from shoal.comm.links.tensor_port import FramePort, TensorPort
from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_link import Address, connect_tls, format_address
from shoal.comm.tls.tls_listener import TlsListener
from shoal.comm.tls.tls_mesh import connect_tls_mesh
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.protocol.worker_messages import Neighbor, Wire
from shoal.worker.links import Seat, StageLinks

_CONNECT_TIMEOUT_S = 5.0
"""Neighbors have loaded and were told at the same time; the head counts silence as loss after 10 s."""


class TlsConnector:
    """Implements `worker.links.Connector`."""

    def __init__(
        self, listener: TlsListener, credentials: Credentials, *, timeout_s: float = _CONNECT_TIMEOUT_S
    ) -> None:
        """
        Args:
            listener: of this process; the caller closes it.
            credentials: of this process.
            timeout_s: for all neighbors together.
        """
        self._listener = listener
        self._credentials = credentials
        self._timeout_s = timeout_s

    def connect(self, wire: Wire, seat: Seat, *, stays_awake: bool = True) -> StageLinks[Link]:
        """See `Connector.connect`. Connects to all neighbors before it waits for any, since listeners accept them in
        the background. Whoever waits for a network sleeps in any case."""
        deadline_s = time.monotonic() + self._timeout_s
        with ExitStack() as on_failure:
            consumers: list[tuple[int, Link]] = []
            for neighbor in wire.consumers:
                link = self._dial(neighbor, deadline_s)
                on_failure.callback(link.close)
                consumers.append((neighbor.stage, link))
            group = self._join(wire, seat, deadline_s) if wire.group else None
            if group is not None:
                on_failure.callback(group.close)
            sources: dict[int, Link] = {}
            for neighbor in wire.sources:
                sources[neighbor.stage] = self._await(neighbor, deadline_s)
                on_failure.callback(sources[neighbor.stage].close)
            on_failure.pop_all()
        return StageLinks(sources=sources, consumers=consumers, group=group)

    def connect_tensors(self, wire: Wire, seat: Seat) -> tuple[StageLinks[TensorLink], TensorPort]:
        """See `Connector.connect_tensors`."""
        links = self.connect(wire, seat)
        return (
            StageLinks(
                sources={stage: TensorLink(link, FramePort()) for stage, link in links.sources.items()},
                consumers=[(stage, TensorLink(link, FramePort())) for stage, link in links.consumers],
                group=links.group,
            ),
            FramePort(),
        )

    def _dial(self, neighbor: Neighbor, deadline_s: float) -> Link:
        address, key = parse_where(neighbor.where)
        try:
            return connect_tls(address, self._credentials, key=key, timeout_s=_left_s(deadline_s))
        except WorkerLost as error:
            raise WorkerLost(f"{neighbor.name} was not reached: {error}" if neighbor.name else str(error)) from error

    def _await(self, neighbor: Neighbor, deadline_s: float) -> Link:
        who = neighbor.name or "a stage before it"
        return self._listener.take(
            parse_where(neighbor.where)[1],
            timeout_s=_left_s(deadline_s),
            complaint=f"not reached by {who} within {self._timeout_s:g} s",
        )

    def _join(self, wire: Wire, seat: Seat, deadline_s: float) -> TcpGroup:
        places = [parse_where(member.where) for member in wire.group]
        peers = connect_tls_mesh(
            [address for address, _ in places],
            name=places[0][1],
            rank=seat.rank,
            generation=wire.generation,
            listener=self._listener,
            credentials=self._credentials,
            timeout_s=_left_s(deadline_s),
            rank_names=[member.name for member in wire.group] if wire.group[0].name else (),
        )
        return TcpGroup(peers, rank=seat.rank, size=len(places), generation=wire.generation)


def format_where(address: Address | None, key: str) -> str:
    """The name of a neighbor for `Neighbor`; `address`: None if it connects to this worker."""
    return f"/{key}" if address is None else f"{format_address(address)}/{key}"


def parse_where(where: str) -> tuple[Address, str]:
    """Address and key of a neighbor. Raises RemoteProtocolError if the name is malformed."""
    place, slash, key = where.partition("/")
    host, _, port = place.rpartition(":")
    if not slash or not key or (place and not port.isdigit()):
        raise RemoteProtocolError(f"{where!r} names no neighbor")
    return (host.removeprefix("[").removesuffix("]"), int(port) if place else 0), key


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())

"""A worker's links to neighbours on other machines: TLS connections, let in by each worker's own listener.

A neighbour's name is "host:port/key": where its listener is, and as whom to come. For one that comes here, "/key".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from shoal.comm.groups.tcp_group import TcpGroup
from shoal.comm.links.link import Link
from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_link import Address, connect_tls, spell_address
from shoal.comm.tls.tls_listener import TlsListener
from shoal.comm.tls.tls_mesh import connect_tls_mesh
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.protocol.messages import LoadStage, Wire
from shoal.worker.links import StageLinks

_CONNECT_TIMEOUT_S = 5.0
"""Neighbours have loaded and were told at the same time; the head counts silence as loss after 10 s."""


class TlsConnector:
    """Implements `worker.links.Connector`."""

    def __init__(
        self, listener: TlsListener, credentials: Credentials, *, timeout_s: float = _CONNECT_TIMEOUT_S
    ) -> None:
        """
        Args:
            listener: of this process, stays the caller's to close.
            credentials: of this process.
            timeout_s: for all neighbours together.
        """
        self._listener = listener
        self._credentials = credentials
        self._timeout_s = timeout_s

    def connect(self, wire: Wire, load: LoadStage) -> StageLinks:
        """See `Connector`. Connects to all before it waits for any: listeners let neighbours in by themselves."""
        deadline_s = time.monotonic() + self._timeout_s
        with ExitStack() as on_failure:
            downstream: list[Link] = []
            for index, (address, key) in enumerate(map(parse_name, wire.downstream)):
                with _naming(wire.downstream_names, index):
                    link = connect_tls(address, self._credentials, key=key, timeout_s=_left_s(deadline_s))
                on_failure.callback(link.close)
                downstream.append(link)
            group = self._join(wire, load, deadline_s) if wire.group else None
            if group is not None:
                on_failure.callback(group.close)
            upstream = None
            if wire.upstream is not None:
                who = wire.upstream_name or "the stage before it"
                upstream = self._listener.take(
                    parse_name(wire.upstream)[1],
                    timeout_s=_left_s(deadline_s),
                    complaint=f"not reached by {who} within {self._timeout_s:g} s",
                )
            on_failure.pop_all()
        return StageLinks(upstream=upstream, downstream=downstream, group=group)

    def _join(self, wire: Wire, load: LoadStage, deadline_s: float) -> TcpGroup:
        names = [parse_name(name) for name in wire.group]
        peers = connect_tls_mesh(
            [address for address, _ in names],
            name=names[0][1],
            rank=load.rank,
            generation=wire.generation,
            listener=self._listener,
            credentials=self._credentials,
            timeout_s=_left_s(deadline_s),
            rank_names=wire.group_names,
        )
        return TcpGroup(peers, rank=load.rank, size=len(names), generation=wire.generation)


@contextmanager
def _naming(names: Sequence[str], index: int) -> Iterator[None]:
    """Errors of links say which neighbour it is that cannot be reached, where that was told."""
    try:
        yield
    except WorkerLost as error:
        raise WorkerLost(f"{names[index]} was not reached: {error}" if names else str(error)) from error


def make_name(address: Address | None, key: str) -> str:
    """How a neighbour is named in `Wire`; `address`: None where it comes by itself."""
    return f"/{key}" if address is None else f"{spell_address(address)}/{key}"


def parse_name(name: str) -> tuple[Address, str]:
    """Address and key. Raises RemoteProtocolError where it is no such name."""
    where, slash, key = name.partition("/")
    host, _, port = where.rpartition(":")
    if not slash or not key or (where and not port.isdigit()):
        raise RemoteProtocolError(f"{name!r} names no neighbour")
    return (host.removeprefix("[").removesuffix("]"), int(port) if where else 0), key


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())

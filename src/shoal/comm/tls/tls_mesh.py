"""The TLS connections of a TCP group between machines, accepted by the processes' `TlsListener`.

Keys contain generation and ranks, so that a process left over from an earlier group is never accepted in this one.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence

from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_link import connect_tls_socket
from shoal.comm.tls.tls_listener import TlsListener
from shoal.errors import WorkerLost

Address = tuple[str, int]
"""host and port"""


def connect_tls_mesh(
    addresses: Sequence[Address],
    *,
    name: str,
    rank: int,
    generation: int,
    listener: TlsListener,
    credentials: Credentials,
    timeout_s: float,
    rank_names: Sequence[str] = (),
) -> dict[int, ssl.SSLSocket]:
    """Connect to every other rank: of two ranks, the higher one connects to the lower one.

    Args:
        addresses: of each rank's listener; that of the last rank is not used.
        name: of the group, unique among the groups of these listeners.
        rank_names: names of the ranks in messages; empty: their numbers.

    Returns:
        Connected sockets by rank, as `TcpGroup` expects them.

    Raises:
        WorkerLost: a rank did not connect within timeout_s, or does not listen.
        RemoteProtocolError: a process of another cluster is at a rank's address.
    """
    deadline_s = time.monotonic() + timeout_s
    peers: dict[int, ssl.SSLSocket] = {}
    try:
        for other in range(rank):
            key = _key(name, generation, low=other, high=rank)
            left_s = deadline_s - time.monotonic()
            try:
                peers[other] = connect_tls_socket(addresses[other], credentials, key=key, timeout_s=left_s)
            except WorkerLost as error:
                raise WorkerLost(f"{_name_of(rank_names, other)} was not reached: {error}") from error
        for other in range(rank + 1, len(addresses)):
            key = _key(name, generation, low=rank, high=other)
            left_s = max(deadline_s - time.monotonic(), 0.0)
            complaint = f"{_name_of(rank_names, other)} did not connect before the deadline"
            peers[other] = listener.take_socket(key, timeout_s=left_s, complaint=complaint)
    except BaseException:
        for sock in peers.values():
            sock.close()
        raise
    return peers


def _name_of(rank_names: Sequence[str], rank: int) -> str:
    return rank_names[rank] if rank_names else f"rank {rank}"


def _key(name: str, generation: int, *, low: int, high: int) -> str:
    return f"{name}/{generation}/{low}-{high}"

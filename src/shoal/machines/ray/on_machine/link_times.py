"""Measuring the latency and bandwidth between two machines, over the kind of link that workers use."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import suppress

from shoal.comm.links.link import Link
from shoal.comm.links.ports import ANY_PORT
from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_link import Address, connect_tls
from shoal.comm.tls.tls_listener import TlsListener
from shoal.errors import WorkerLost
from shoal.measure.language.links import LARGE_BYTES, SMALL_BYTES, link_speed
from shoal.planner.speeds.speeds import LinkSpeed

_KEY = "ping"
_TIMEOUT_S = 30.0
_COUNTS = {SMALL_BYTES: 30, LARGE_BYTES: 6}
"""Number of pings of each size. The first of each is not counted."""


def answer_pings(address: str, credentials: Credentials, ports: range = ANY_PORT) -> Address:
    """Listen for one `time_pings`, in a thread that ends with it. Returns the address at which it listens."""
    listener = TlsListener(credentials, host=address, ports=ports)

    def answer() -> None:
        with suppress(WorkerLost):
            link = listener.take(_KEY, timeout_s=_TIMEOUT_S)
            try:
                while link.receive(timeout_s=_TIMEOUT_S) is not None:
                    link.send([b"."], timeout_s=_TIMEOUT_S)
            finally:
                link.close()
        listener.close()

    threading.Thread(target=answer, name="shoal-pings", daemon=True).start()
    return listener.address


def time_pings(address: Address, credentials: Credentials) -> LinkSpeed:
    """The speed of one direction: the time of a frame with a tiny answer, less half of a tiny round trip. Raises
    WorkerLost."""
    link = connect_tls(address, credentials, key=_KEY, timeout_s=_TIMEOUT_S)
    try:
        tiny_s = _round_trip_s(link, 1, _COUNTS[SMALL_BYTES])
        small_s, large_s = (_round_trip_s(link, num_bytes, count) - tiny_s / 2 for num_bytes, count in _COUNTS.items())
    finally:
        link.close()
    return link_speed(small_s, large_s)


def _round_trip_s(link: Link, num_bytes: int, count: int) -> float:
    payload, seconds = bytes(num_bytes), list[float]()
    for _ in range(count):
        started_s = time.perf_counter()
        link.send([payload], timeout_s=_TIMEOUT_S)
        if link.receive(timeout_s=_TIMEOUT_S) is None:
            raise WorkerLost(f"no answer to {num_bytes} bytes within {_TIMEOUT_S:.0f} s")
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds[1:])

"""TCP groups whose ranks are threads of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

from shoal.comm.groups.tcp_group import TcpGroup

WAIT_S = 60.0
T = TypeVar("T")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


def connected(size: int) -> list[dict[int, socket.socket]]:
    """For each rank its connections to all others."""
    peers: list[dict[int, socket.socket]] = [{} for _ in range(size)]
    for low, high in combinations(range(size), 2):
        peers[low][high], peers[high][low] = tcp_pair()
    return peers


def tcp_groups(size: int, *, switch_bytes: int = 1 << 16) -> list[TcpGroup]:
    """One group, an object a rank."""
    return [
        TcpGroup(peers, rank=rank, size=size, generation=1, switch_bytes=switch_bytes)
        for rank, peers in enumerate(connected(size))
    ]


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, all running at once. Raises the first one's error after all have ended."""
    outcomes = all_outcomes(calls)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def all_outcomes(calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """What each returns or raises, all running at once."""
    outcomes: dict[int, T | BaseException] = {}

    def run(index: int) -> None:
        try:
            outcomes[index] = calls[index]()
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(outcomes) == len(calls), f"only {sorted(outcomes)} of {len(calls)} ended"
    return [outcomes[index] for index in range(len(calls))]

"""Connecting the ranks of a TCP group: everybody finds everybody, strangers and leftovers stay outside."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from shoal.comm.groups.tcp_group import TcpGroup
from shoal.comm.groups.tcp_mesh import Address, connect_mesh
from shoal.errors import RemoteProtocolError, WorkerLost
from tests.comm.groups.tcp_ranks import WAIT_S, all_outcomes, together

_SHORT_S = 0.2
"""A deadline that is meant to pass."""


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    yield sockets
    for sock in sockets:
        sock.close()


def _group(
    listeners: list[socket.socket], addresses: list[Address], rank: int, generation: int = 1, timeout_s: float = WAIT_S
) -> TcpGroup:
    peers = connect_mesh(addresses, rank=rank, generation=generation, listener=listeners[rank], timeout_s=timeout_s)
    return TcpGroup(peers, rank=rank, size=len(addresses), generation=generation)


def _addresses(listeners: list[socket.socket]) -> list[Address]:
    return [listener.getsockname() for listener in listeners]


def _sum(group: TcpGroup) -> float:
    x = np.array([10.0**group.rank], np.float32)
    group.all_reduce(x, timeout_s=WAIT_S)
    return float(x[0])


def _assert_whole(groups: list[TcpGroup]) -> None:
    expected = float(sum(10**rank for rank in range(len(groups))))
    assert together([partial(_sum, group) for group in groups]) == [expected] * len(groups)
    for group in groups:
        group.close()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_is_connected_to_every_other(listeners: list[socket.socket], size: int) -> None:
    addresses = _addresses(listeners)[:size]
    _assert_whole(together([partial(_group, listeners, addresses, rank) for rank in range(size)]))


def test_strangers_do_not_disturb(listeners: list[socket.socket]) -> None:
    addresses = _addresses(listeners)[:2]
    with (
        socket.create_connection(addresses[0]) as silent,
        socket.create_connection(addresses[0]) as talking,
        socket.create_connection(addresses[0]) as stuttering,
    ):
        talking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stuttering.sendall(b"shoal-g1")
        socket.create_connection(addresses[0]).close()
        groups = together([partial(_group, listeners, addresses, rank) for rank in range(2)])
        for stranger in (silent, talking, stuttering):
            stranger.settimeout(WAIT_S)
            assert _has_closed(stranger)
    _assert_whole(groups)


def _has_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("rank", [0, 2, 4000], ids=["not a higher one", "beyond the group", "far beyond"])
def test_a_rank_that_cannot_be_is_answered_and_let_go(listeners: list[socket.socket], rank: int) -> None:
    addresses = _addresses(listeners)[:2]
    with socket.create_connection(addresses[0]) as caller:
        caller.sendall(struct.pack("<8sQII", b"shoal-g1", 1, rank, 2))
        groups = together([partial(_group, listeners, addresses, rank) for rank in range(2)])
        caller.settimeout(WAIT_S)
        assert caller.recv(24) == struct.pack("<8sQII", b"shoal-g1", 1, 0, 2)
        assert caller.recv(1) == b""
    _assert_whole(groups)


def test_ranks_that_do_not_come_are_named(listeners: list[socket.socket]) -> None:
    addresses = _addresses(listeners)[:3]
    with pytest.raises(WorkerLost, match="rank 1, rank 2 did not connect"):
        _group(listeners, addresses, 0, timeout_s=_SHORT_S)
    with pytest.raises(WorkerLost, match=f"rank 0 did not answer at 127.0.0.1:{addresses[0][1]}"):
        _group(listeners, addresses, 1, timeout_s=_SHORT_S)
    listeners[0].close()
    with pytest.raises(WorkerLost, match="rank 0 did not answer"):
        _group(listeners, addresses, 1, timeout_s=_SHORT_S)


def test_a_rank_of_an_earlier_generation_is_told(listeners: list[socket.socket]) -> None:
    addresses = _addresses(listeners)[:2]
    calls = [
        partial(_group, listeners, addresses, 0, 2, 1.0),
        partial(_group, listeners, addresses, 1, 1),
    ]
    outcomes = all_outcomes(calls)
    assert isinstance(outcomes[0], WorkerLost)
    assert isinstance(outcomes[1], RemoteProtocolError)
    assert "generation 2" in str(outcomes[1])


def test_a_rank_of_a_later_generation_tries_until_the_others_follow(listeners: list[socket.socket]) -> None:
    addresses = _addresses(listeners)[:2]

    def slow_to_learn() -> TcpGroup:
        with pytest.raises(WorkerLost):
            _group(listeners, addresses, 0, 1, _SHORT_S)
        return _group(listeners, addresses, 0, 2)

    _assert_whole(together([slow_to_learn, partial(_group, listeners, addresses, 1, 2)]))


def test_a_rank_that_connects_again_takes_its_own_place(listeners: list[socket.socket]) -> None:
    address = listeners[0].getsockname()

    def connect_as(rank: int) -> socket.socket:
        sock = socket.create_connection(address, timeout=WAIT_S)
        sock.sendall(struct.pack("<8sQII", b"shoal-g1", 1, rank, 3))
        assert sock.recv(24) == struct.pack("<8sQII", b"shoal-g1", 1, 0, 3)
        return sock

    def be_the_others() -> tuple[bytes, bytes]:
        with connect_as(1) as earlier, connect_as(1) as again, connect_as(2):
            return earlier.recv(1), again.recv(1)

    def be_rank_0() -> tuple[bytes, bytes]:
        peers = connect_mesh([address] * 3, rank=0, generation=1, listener=listeners[0], timeout_s=WAIT_S)
        peers[1].send(b"x")
        for peer in peers.values():
            peer.close()
        return b"", b"x"

    assert together([be_rank_0, be_the_others]) == [(b"", b"x")] * 2


_CHILD = """
import socket, sys
import numpy as np
from shoal.comm.groups.tcp_group import TcpGroup
from shoal.comm.groups.tcp_mesh import connect_mesh
addresses = [("127.0.0.1", int(port)) for port in sys.argv[2:]]
listener = socket.socket(fileno=int(sys.argv[1]))
peers = connect_mesh(addresses, rank=1, generation=1, listener=listener, timeout_s=60)
group = TcpGroup(peers, rank=1, size=len(addresses), generation=1)
group.all_reduce(np.array([10.0], np.float32), timeout_s=60)
print("summed", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_survivors_of_a_dead_or_hung_process_make_a_smaller_group(
    listeners: list[socket.socket], sent: signal.Signals
) -> None:
    addresses = _addresses(listeners)[:3]
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(listeners[1].fileno()), *(str(port) for _, port in addresses)],
        pass_fds=[listeners[1].fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        groups = together([partial(_group, listeners, addresses, rank) for rank in (0, 2)])
        assert together([partial(_sum, group) for group in groups]) == [111.0, 111.0]
        assert child.stdout is not None
        assert child.stdout.readline() == b"summed\n"
        child.send_signal(sent)
        timeout_s = WAIT_S if sent is signal.SIGKILL else _SHORT_S
        x = np.zeros(1, np.float32)
        outcomes = all_outcomes([partial(group.all_reduce, x.copy(), timeout_s=timeout_s) for group in groups])
        assert all(isinstance(outcome, WorkerLost) and "rank 1" in str(outcome) for outcome in outcomes), outcomes
        for group in groups:
            group.close()
        survivors = [listeners[0], listeners[2]]
        calls = [partial(_group, survivors, _addresses(survivors), rank, 2) for rank in range(2)]
        _assert_whole(together(calls))
    finally:
        child.kill()
        child.communicate(timeout=WAIT_S)

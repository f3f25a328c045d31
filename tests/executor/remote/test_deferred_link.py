"""A link that is still being made."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from shoal.comm.links.socket_link import SocketLink
from shoal.errors import MachineGone, WorkerLost
from shoal.executor.remote.deferred_link import DeferredLink


@pytest.mark.parametrize("error", [WorkerLost("refused"), MachineGone("refused"), RuntimeError("refused\nby Ray")])
def test_that_there_will_be_no_link_is_told_to_who_receives(error: Exception) -> None:
    """Also where that was known before anything was sent."""

    def connect() -> SocketLink:
        raise error

    link = DeferredLink(lambda note_progress: connect(), "connecting")
    assert select.select([link.fileno()], [], [], 30.0)[0]
    link.send([b"load"], timeout_s=0.0)
    for _ in range(2):
        with pytest.raises(WorkerLost, match=r"refused$") as raised:
            link.receive(timeout_s=0.0)
        assert isinstance(raised.value, MachineGone) == isinstance(error, MachineGone)
    link.close()


def test_a_link_that_was_closed_is_a_lost_one() -> None:
    """Workers of a machine that is gone are asked to end after their links were closed."""
    made, peer = socket.socketpair()
    with peer:
        link = DeferredLink(lambda note_progress: SocketLink(made), "connecting")
        assert select.select([link.fileno()], [], [], 30.0)[0]
        link.close()
        for _ in range(2):
            with pytest.raises(WorkerLost, match="closed"):
                link.send([b"x"], timeout_s=0.0)
            with pytest.raises(WorkerLost, match="closed"):
                link.receive(timeout_s=0.0)
        link.close()


def test_a_sign_of_life_wakes_whoever_waits_and_is_not_the_end() -> None:
    may_end = threading.Event()
    made, peer = socket.socketpair()

    def connect(note_progress: Callable[[], None]) -> SocketLink:
        note_progress()
        assert may_end.wait(30.0)
        return SocketLink(made)

    with peer, closing(DeferredLink(connect, "connecting")) as link:
        assert select.select([link.fileno()], [], [], 30.0)[0]
        assert link.receive(timeout_s=0.0) is None
        assert not select.select([link.fileno()], [], [], 0.0)[0], "it was taken note of"
        link.send([b"load"], timeout_s=0.0)
        may_end.set()
        assert select.select([link.fileno()], [], [], 30.0)[0]
        assert link.receive(timeout_s=0.0) is None
        assert peer.recv(100) == struct.pack("<I", 4) + b"load"

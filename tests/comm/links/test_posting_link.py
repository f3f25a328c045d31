"""Writing to a link never waits, and what is kept goes as soon as the peer takes it."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from shoal.comm.links.posting_link import PostingLink
from shoal.comm.links.socket_link import SocketLink
from shoal.errors import WorkerLost

_WAIT_S = 60.0
LARGE = 1 << 20
"""Bytes that no socket takes at once here."""


@pytest.fixture
def pair() -> Iterator[tuple[PostingLink, SocketLink]]:
    left, right = socket.socketpair()
    posting, peer = PostingLink(SocketLink(left)), SocketLink(right)
    yield posting, peer
    posting.close()
    peer.close()


def is_readable(link: PostingLink, timeout_s: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(link.fileno(), select.POLLIN)
    return bool(poll.poll(timeout_s * 1e3))


def test_frames_that_do_not_fit_are_kept_and_go_in_order(pair: tuple[PostingLink, SocketLink]) -> None:
    posting, peer = pair
    frames = [bytes([number]) * (LARGE + number) for number in range(3)]
    for frame in (*frames, b"last"):
        posting.send([frame], timeout_s=0.0)
    assert not is_readable(posting), "the peer has taken nothing yet"
    arrived: list[bytes] = []
    while len(arrived) < 4:
        frame = peer.receive(timeout_s=0.0)
        if frame is not None:
            arrived.append(bytes(frame))
        else:
            assert is_readable(posting, _WAIT_S), "there is room again"
            assert posting.receive(timeout_s=0.0) is None
    assert arrived == [*frames, b"last"]
    assert not is_readable(posting), "nothing is left to go"


def test_what_the_peer_says_is_heard_meanwhile(pair: tuple[PostingLink, SocketLink]) -> None:
    posting, peer = pair
    posting.send([bytes(LARGE)], timeout_s=0.0)
    peer.send([b"busy"], timeout_s=_WAIT_S)
    assert is_readable(posting, _WAIT_S)
    frame = posting.receive(timeout_s=0.0)
    assert frame is not None
    assert bytes(frame) == b"busy"


def test_a_peer_that_is_gone_is_a_loss(pair: tuple[PostingLink, SocketLink]) -> None:
    posting, peer = pair
    posting.send([bytes(LARGE)], timeout_s=0.0)
    peer.close()
    assert is_readable(posting, _WAIT_S)
    with pytest.raises(WorkerLost):
        posting.receive(timeout_s=0.0)
    with pytest.raises(WorkerLost):
        posting.send([b"more"], timeout_s=0.0)


def test_it_is_closed_once_and_for_all(pair: tuple[PostingLink, SocketLink]) -> None:
    posting, peer = pair
    posting.close()
    posting.close()
    with pytest.raises(WorkerLost):
        peer.receive(timeout_s=_WAIT_S)

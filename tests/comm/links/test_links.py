"""Links: every kind carries frames in order, keeps partial ones across time-outs and notices a closed peer."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.comm.links import ring_link
from shoal.comm.links.link import MAX_FRAME_BYTES, Link
from shoal.comm.links.python_ring import PythonRing
from shoal.comm.links.ring_link import RingReceiver, RingSender, create_ring
from shoal.comm.links.socket_link import SocketLink
from shoal.errors import LocalProtocolError, RemoteProtocolError, WorkerLost

_WAIT_S = 60.0
_RING_BYTES = 1000
Pair = tuple[Link, Link]


def _unix_pair(stack: ExitStack) -> Pair:
    left, right = socket.socketpair()
    return stack.enter_context(_closing(SocketLink(left))), stack.enter_context(_closing(SocketLink(right)))


def _tcp_pair(stack: ExitStack) -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return stack.enter_context(_closing(SocketLink(left))), stack.enter_context(_closing(SocketLink(right)))


def _ring_pair(stack: ExitStack) -> Pair:
    fd = create_ring(_RING_BYTES)
    stack.callback(os.close, fd)
    return RingSender(fd), RingReceiver(fd)


def _send_all(sender: Link, frames: list[bytes]) -> None:
    for frame in frames:
        sender.send([frame], timeout_s=_WAIT_S)


class _closing(ExitStack):
    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self.callback(link.close)

    def __enter__(self) -> Link:  # type: ignore[override]
        return self._link


@pytest.fixture(params=["unix", "tcp", "native ring", "python ring"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    makers: dict[str, Callable[[ExitStack], Pair]] = {"unix": _unix_pair, "tcp": _tcp_pair}
    if request.param == "python ring":
        monkeypatch.setattr(ring_link, "Ring", PythonRing)
    elif request.param == "native ring" and ring_link.Ring is PythonRing:
        pytest.skip("the native extension is not built")
    with ExitStack() as stack:
        yield makers.get(request.param, _ring_pair)(stack)


def test_frames_arrive_in_order_with_their_parts_joined(pair: Pair) -> None:
    sender, receiver = pair
    sender.send([b"ab", b"", b"cd"], timeout_s=_WAIT_S)
    sender.send([b""], timeout_s=_WAIT_S)
    sender.send([memoryview(b"ef")], timeout_s=_WAIT_S)
    assert [bytes(receiver.receive(timeout_s=_WAIT_S) or b"none") for _ in range(3)] == [b"abcd", b"none", b"ef"]
    assert receiver.receive(timeout_s=0.0) is None


def test_an_empty_frame_is_a_frame(pair: Pair) -> None:
    sender, receiver = pair
    sender.send([], timeout_s=_WAIT_S)
    frame = receiver.receive(timeout_s=_WAIT_S)
    assert frame is not None
    assert len(frame) == 0


def test_frames_of_every_size_stream_through(pair: Pair) -> None:
    """Also frames that are larger than the ring and the socket's buffers."""
    sender, receiver = pair
    sizes = [0, 1, 3, 996, 1000, 1001, 4096, 65_531, 65_532, 65_537, 3_000_001]
    frames = [os.urandom(size) for size in sizes]
    thread = threading.Thread(target=_send_all, args=(sender, frames))
    thread.start()
    received = []
    for _ in frames:
        frame = receiver.receive(timeout_s=_WAIT_S)
        assert frame is not None
        received.append(bytes(frame))
    thread.join(_WAIT_S)
    assert received == frames


def test_a_frame_in_part_is_kept_across_timeouts(pair: Pair) -> None:
    sender, receiver = pair
    frame = os.urandom(200_000)
    thread = threading.Thread(target=lambda: sender.send([frame], timeout_s=_WAIT_S))
    thread.start()
    received = None
    for _ in range(1_000_000):
        received = receiver.receive(timeout_s=0.0)
        if received is not None:
            break
    thread.join(_WAIT_S)
    assert bytes(received or b"") == frame


def test_a_closed_peer_is_lost_after_what_it_sent(pair: Pair) -> None:
    sender, receiver = pair
    sender.send([b"last words"], timeout_s=_WAIT_S)
    sender.close()
    assert bytes(receiver.receive(timeout_s=_WAIT_S) or b"") == b"last words"
    with pytest.raises(WorkerLost):
        receiver.receive(timeout_s=_WAIT_S)


def test_sending_to_a_closed_peer_is_a_loss(pair: Pair) -> None:
    sender, receiver = pair
    receiver.close()
    frames = [bytes(_RING_BYTES + 1)] * 3  # the first may still fit into a buffer of the kernel
    with pytest.raises(WorkerLost):
        _send_all(sender, frames)


def test_a_peer_that_takes_nothing_is_a_loss_after_the_deadline(pair: Pair) -> None:
    sender, _ = pair
    with pytest.raises(WorkerLost, match="deadline"):
        sender.send([bytes(30_000_000)], timeout_s=0.05)


def test_an_oversized_frame_is_refused_before_anything_is_sent(pair: Pair) -> None:
    sender, receiver = pair
    parts = [memoryview(bytearray(1 << 20))] * (MAX_FRAME_BYTES // (1 << 20) + 1)
    with pytest.raises(LocalProtocolError):
        sender.send(parts, timeout_s=_WAIT_S)
    assert receiver.receive(timeout_s=0.0) is None


def test_an_oversized_length_is_refused_before_memory_is_taken() -> None:
    left, right = socket.socketpair()
    link = SocketLink(right)
    left.sendall(struct.pack("<I", MAX_FRAME_BYTES + 1))
    with pytest.raises(RemoteProtocolError):
        link.receive(timeout_s=_WAIT_S)
    left.close()
    link.close()


def test_a_large_frame_in_small_pieces_is_copied_a_few_times_only() -> None:
    """Over TLS, a piece is a record of 16 KiB; whatever has come of a frame moves each time that its buffer grows."""
    left, right = socket.socketpair()
    with left:
        link, piece, num_pieces = SocketLink(right), bytes(1 << 14), 256
        left.sendall(struct.pack("<I", num_pieces * len(piece)))
        buffers = [link._buffer]
        for _ in range(num_pieces - 1):
            left.sendall(piece)
            assert link.receive(timeout_s=0.0) is None
            if link._buffer is not buffers[-1]:
                buffers.append(link._buffer)
        left.sendall(piece)
        assert link.receive(timeout_s=_WAIT_S) == piece * num_pieces
        link.close()
    assert len(buffers) <= 8, "each twice the size of the one before"


@settings(max_examples=50, deadline=None)
@given(frames=st.lists(st.binary(max_size=300), max_size=20), cuts=st.lists(st.integers(1, 97), min_size=1))
def test_any_chunking_of_a_stream_gives_the_same_frames(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
    left, right = socket.socketpair()
    link, received, position = SocketLink(right), [], 0
    while position < len(stream):
        for cut in cuts:
            left.sendall(stream[position : position + cut])
            position += cut
            while (frame := link.receive(timeout_s=0.0)) is not None:
                received.append(bytes(frame))
    left.close()
    link.close()
    assert received == frames


def test_a_killed_process_is_a_loss() -> None:
    left, right = socket.socketpair()
    link = SocketLink(left)
    code = "import sys; sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], pass_fds=[right.fileno()], stdin=subprocess.PIPE)
    right.close()
    child.kill()
    child.wait(_WAIT_S)
    assert child.stdin is not None
    child.stdin.close()
    with pytest.raises(WorkerLost):
        link.receive(timeout_s=_WAIT_S)
    link.close()


def test_each_end_of_a_ring_goes_one_way() -> None:
    fd = create_ring(_RING_BYTES)
    with pytest.raises(LocalProtocolError):
        RingSender(fd).receive(timeout_s=0.0)
    with pytest.raises(LocalProtocolError):
        RingReceiver(fd).send([b"x"], timeout_s=0.0)
    os.close(fd)

"""Rings whose other end is another process: every end it can come to is found, nothing it wrote is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from shoal.comm.links import ring_link
from shoal.comm.links.python_ring import PythonRing
from shoal.comm.links.ring_link import RingReceiver, RingSender, close_ring, create_ring, process_alive
from shoal.errors import RemoteProtocolError, WorkerLost

_WAIT_S = 60.0
_CAPACITY = 4096
_WRITTEN_OFFSET = 0
"""of the counter of written bytes, within the header page"""


@pytest.fixture(params=["native", "python"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(ring_link, "Ring", PythonRing)
    elif ring_link.Ring is PythonRing:
        pytest.skip("the native extension is not built")


@pytest.fixture
def ring() -> Iterator[int]:
    fd = create_ring(_CAPACITY)
    yield fd
    os.close(fd)


def start_child(code: str, fd: int) -> subprocess.Popen[bytes]:
    """Run `code` with this test's kind of ring: a Python end does not wake a sleeping native one."""
    preamble = (
        "import sys; from shoal.comm.links import ring_link\n"
        "from shoal.comm.links.ring_link import RingReceiver, RingSender\n"
        f"from {ring_link.Ring.__module__} import {ring_link.Ring.__name__} as Ring; ring_link.Ring = Ring; fd = {fd}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def end(child: subprocess.Popen[bytes]) -> None:
    child.communicate(timeout=_WAIT_S)


def test_frames_from_another_process(ring: int) -> None:
    child = start_child(
        "s = RingSender(fd)\nfor n in range(0, 60000, 997): s.send([bytes([n % 251]) * n], timeout_s=60)", ring
    )
    receiver = RingReceiver(ring)
    for n in range(0, 60_000, 997):
        frame = receiver.receive(timeout_s=_WAIT_S)
        assert frame is not None
        assert bytes(frame) == bytes([n % 251]) * n
    end(child)


def test_a_killed_sender_is_found_after_its_last_frame(ring: int) -> None:
    code = "s = RingSender(fd); s.send([b'last'], timeout_s=60); print('sent', flush=True); sys.stdin.read()"
    child = start_child(code, ring)
    assert child.stdout is not None
    assert child.stdout.readline() == b"sent\n"
    pidfd = os.pidfd_open(child.pid)
    receiver = RingReceiver(ring, peer_alive=process_alive(pidfd))
    child.send_signal(signal.SIGKILL)
    frame = receiver.receive(timeout_s=_WAIT_S)
    assert frame is not None
    assert bytes(frame) == b"last"
    with pytest.raises(WorkerLost, match="closed"):
        receiver.receive(timeout_s=_WAIT_S)
    os.close(pidfd)
    end(child)


def test_a_receiver_killed_while_the_ring_is_full_is_found(ring: int) -> None:
    child = start_child("r = RingReceiver(fd); print('up', flush=True); sys.stdin.read()", ring)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    pidfd = os.pidfd_open(child.pid)
    sender = RingSender(ring, peer_alive=process_alive(pidfd))
    killer = threading.Thread(target=child.kill)
    killer.start()
    with pytest.raises(WorkerLost, match="link closed"):
        sender.send([bytes(10 * _CAPACITY)], timeout_s=_WAIT_S)
    killer.join()
    os.close(pidfd)
    end(child)


def test_after_a_frame_in_part_the_ring_is_closed(ring: int) -> None:
    sender, receiver = RingSender(ring), RingReceiver(ring)
    with pytest.raises(WorkerLost, match="deadline"):
        sender.send([bytes(2 * _CAPACITY)], timeout_s=0.0)
    with pytest.raises(WorkerLost, match="closed"):
        receiver.receive(timeout_s=_WAIT_S)
    with pytest.raises(WorkerLost, match="closed"):
        sender.send([b"more"], timeout_s=_WAIT_S)


def test_an_oversized_length_is_refused(ring: int) -> None:
    ring_link.Ring(ring).write(b"\xff\xff\xff\xff", 0.0)
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        RingReceiver(ring).receive(timeout_s=_WAIT_S)


def test_broken_counters_are_refused_at_both_ends(ring: int) -> None:
    os.pwrite(ring, (_CAPACITY + 1).to_bytes(8, "little"), _WRITTEN_OFFSET)
    with pytest.raises(RemoteProtocolError, match="counters"):
        RingReceiver(ring).receive(timeout_s=_WAIT_S)
    with pytest.raises(RemoteProtocolError, match="counters"):
        RingSender(ring).send([b"x"], timeout_s=_WAIT_S)


def test_a_file_that_is_no_ring_is_refused() -> None:
    fd = os.memfd_create("too-small")
    with pytest.raises(ValueError, match="not a ring"):
        RingReceiver(fd)
    os.close(fd)


def test_a_ring_is_closed_from_outside(ring: int) -> None:
    """As the head does it, whose workers wait in it."""
    sender, receiver = RingSender(ring), RingReceiver(ring)
    close_ring(ring)
    with pytest.raises(WorkerLost, match="closed"):
        receiver.receive(timeout_s=_WAIT_S)
    with pytest.raises(WorkerLost, match="closed"):
        sender.send([b"x"], timeout_s=_WAIT_S)

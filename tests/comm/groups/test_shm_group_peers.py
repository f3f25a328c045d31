"""Groups in shared memory whose ranks are processes: dead, hung and interrupted ones, and what survivors do then."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shoal.comm.groups import shm_group
from shoal.comm.groups.group_memory import RANK_BYTES
from shoal.comm.groups.python_group import PythonCollective
from shoal.comm.groups.shm_group import SharedMemoryGroup, create_group_memory
from shoal.errors import WorkerLost

_WAIT_S = 60.0
_NUM_FLOATS = 10
_LOOP = "print('up', flush=True)\nwhile True: g.all_reduce(np.ones(10, np.float32), timeout_s=60)"
"""calls until its group fails"""


@pytest.fixture(params=["native", "python"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(shm_group, "Collective", PythonCollective)
    elif shm_group.Collective is PythonCollective:
        pytest.skip("the native extension is not built")


class Ranks:
    """Rank 0 is here, the others are children that run a piece of code with their end of the group as `g`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = create_group_memory(size)
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def join(self) -> SharedMemoryGroup:
        return SharedMemoryGroup(self.fd, rank=0, size=self.size, generation=1)

    def start(self, rank: int, code: str, *, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        kind = shm_group.Collective
        preamble = (
            "import os, socket, sys, numpy as np; from shoal.comm.groups import shm_group; from shoal.errors import *\n"
            f"from {kind.__module__} import {kind.__name__} as Collective; shm_group.Collective = Collective\n"
            f"g = shm_group.SharedMemoryGroup({self.fd}, rank={rank}, size={self.size}, generation=1)\n"
        )
        self.children[rank] = subprocess.Popen(
            [sys.executable, "-c", preamble + code],
            pass_fds=[self.fd, *pass_fds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self.children[rank]

    def line(self, rank: int) -> str:
        """The next line that a child prints."""
        stdout = self.children[rank].stdout
        assert stdout is not None
        return stdout.readline().decode().strip()

    def end(self, rank: int) -> str:
        """Wait for a child's end; what it wrote to stderr."""
        return self.children[rank].communicate(timeout=_WAIT_S)[1].decode()

    def num_rounds(self, rank: int) -> int:
        """How many a rank has published."""
        return int.from_bytes(os.pread(self.fd, 8, rank * RANK_BYTES), "little")

    def wait_for_round(self, rank: int) -> None:
        """Until a rank has published a round: then it waits for the others."""
        while not self.num_rounds(rank):
            assert self.children[rank].poll() is None

    def wait_until_ahead(self, rank: int) -> None:
        """Until a rank has published the round that rank 0 has not: then it waits for rank 0."""
        while self.num_rounds(rank) == self.num_rounds(0):
            assert self.children[rank].poll() is None

    def close(self) -> None:
        for child in self.children.values():
            child.kill()
            child.communicate(timeout=_WAIT_S)
        os.close(self.fd)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    ranks = Ranks(3)
    yield ranks
    ranks.close()


def call(group: SharedMemoryGroup, *, timeout_s: float = _WAIT_S) -> None:
    group.all_reduce(np.ones(_NUM_FLOATS, np.float32), timeout_s=timeout_s)


def call_until_lost(
    group: SharedMemoryGroup, *, timeout_s: float = _WAIT_S, before: Callable[[], None] = lambda: None
) -> str:
    """`before`: what is waited for before each call; others may have no processor for longer than the time-out."""
    while True:
        before()
        try:
            call(group, timeout_s=timeout_s)
        except WorkerLost as error:
            return str(error)


def test_processes_add_up(ranks: Ranks) -> None:
    code = (
        "for n in range(0, 150_000, 7919):\n"
        "    x = np.full(n, {rank}, np.float32); g.all_reduce(x, timeout_s=60); assert (x == 3).all()\n"
        "print('done', flush=True)"
    )
    for rank in (1, 2):
        ranks.start(rank, code.replace("{rank}", str(rank)))
    group = ranks.join()
    for count in range(0, 150_000, 7919):
        x = np.zeros(count, np.float32)
        group.all_reduce(x, timeout_s=_WAIT_S)
        assert (x == 3).all()
    assert [ranks.line(rank) for rank in (1, 2)] == ["done", "done"]


def test_every_survivor_names_the_rank_that_was_killed(ranks: Ranks) -> None:
    for rank in (1, 2):
        ranks.start(rank, _LOOP)
    group = ranks.join()
    call(group)
    ranks.children[1].send_signal(signal.SIGKILL)  # not waited for: a zombie
    assert call_until_lost(group) in ("rank 1 of the group is dead", "rank 1 of the group is gone")
    assert "WorkerLost: rank 1 of the group is" in ranks.end(2)
    assert "WorkerLost" not in ranks.end(1)
    with pytest.raises(WorkerLost, match="closed"):
        call(group)


def test_a_rank_killed_while_others_wait_for_it_is_found(ranks: Ranks) -> None:
    ranks.start(1, "print('up', flush=True); sys.stdin.read()")
    ranks.start(2, _LOOP)
    assert ranks.line(1) == "up"
    ranks.wait_for_round(2)
    killer = threading.Thread(target=ranks.children[1].kill)
    group = ranks.join()
    killer.start()
    assert "rank 1 of the group is" in call_until_lost(group)
    killer.join()
    assert "WorkerLost: rank 1 of the group is" in ranks.end(2)


def test_a_hung_rank_is_lost_at_the_deadline_and_learns_of_it(ranks: Ranks) -> None:
    for rank in (1, 2):
        ranks.start(rank, _LOOP)
    group = ranks.join()
    call(group)
    ranks.children[2].send_signal(signal.SIGSTOP)
    complaint = call_until_lost(group, timeout_s=1.0, before=lambda: ranks.wait_until_ahead(1))
    assert complaint == "rank 2 of the group did not come within 1 s"
    assert "WorkerLost: rank 2 of the group is gone" in ranks.end(1)
    ranks.children[2].send_signal(signal.SIGCONT)
    assert "WorkerLost: rank" in ranks.end(2)


def test_survivors_form_a_group_on_new_memory(ranks: Ranks) -> None:
    ours, theirs = socket.socketpair()
    code = (
        f"s = socket.socket(fileno={theirs.fileno()})\n"
        "try:\n"
        "    while True: g.all_reduce(np.ones(10, np.float32), timeout_s=60)\n"
        "except WorkerLost: s.send(b'lost')\n"
        "_, (fd,), _, _ = socket.recv_fds(s, 1, 1)\n"
        "g = shm_group.SharedMemoryGroup(fd, rank=1, size=2, generation=2); os.close(fd)\n"
        "x = np.full(70_000, 5, np.float32); g.all_reduce(x, timeout_s=60); print(x.sum(), flush=True)"
    )
    ranks.start(1, _LOOP)
    ranks.start(2, code, pass_fds=(theirs.fileno(),))
    theirs.close()
    group = ranks.join()
    call(group)
    ranks.children[1].kill()
    call_until_lost(group)
    assert ours.recv(4) == b"lost"
    fd = create_group_memory(2)
    socket.send_fds(ours, [b"x"], [fd])
    group = SharedMemoryGroup(fd, rank=0, size=2, generation=2)
    os.close(fd)
    ours.close()
    x = np.full(70_000, 1, np.float32)
    group.all_reduce(x, timeout_s=_WAIT_S)
    assert (x == 6).all()
    assert float(ranks.line(2)) == 6 * 70_000


def test_an_interrupted_rank_leaves(ranks: Ranks) -> None:
    ranks.start(1, "g.all_reduce(np.ones(10, np.float32), timeout_s=60)")
    ranks.wait_for_round(1)
    ranks.children[1].send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in ranks.end(1)
    assert call_until_lost(ranks.join()) == "rank 1 of the group is gone"


def test_nothing_is_left_open(ranks: Ranks) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    ranks.start(1, "sys.stdin.read()")
    ranks.start(2, _LOOP)
    assert ranks.line(2) == "up"
    group = ranks.join()
    ranks.children[1].kill()
    call_until_lost(group, timeout_s=5.0)
    for rank in (1, 2):
        ranks.end(rank)
    del group
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before

"""One rank's place in a group, without a compiler: native/comm/group_member.cpp, polled with growing sleeps.

Relies on stores becoming visible in program order, as on x86-64 (Intel SDM volume 3, section 9.2.2).
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Iterable

import numpy as np

from shoal.arrays import U8
from shoal.comm.groups.group_memory import HEADER_BYTES, RANK, SLOT_BYTES, CallFailure, CallKind, group_bytes
from shoal.comm.links.ring_link import PeerAlive, process_alive

Failed = tuple[int, int]
"""`CallFailure`, and the rank that is to blame."""

_SHORTEST_SLEEP_S = 20e-6
_LONGEST_SLEEP_S = 1e-3


class PythonMember:
    """Joins, meets the others in rounds, and detects that a peer will not come."""

    def __init__(self, fd: int, rank: int, size: int, generation: int) -> None:
        if os.fstat(fd).st_size != group_bytes(size):
            raise ValueError(f"not the memory of a group of {size} ranks")
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} is not in a group of {size}")
        memory = mmap.mmap(fd, group_bytes(size))
        self.rank, self.size = rank, size
        self._ranks = np.frombuffer(memory, RANK, size)
        self._steps = self._ranks["step"]
        self._slots_RPB: U8 = np.frombuffer(memory, np.uint8, offset=HEADER_BYTES).reshape(size, 2, SLOT_BYTES)
        """Slots by rank and by parity of the step."""
        self._alive: dict[int, PeerAlive] = {}
        self._step, self._num_calls, self._deadline_s, self._is_checked = 0, 0, 0.0, False
        if self._ranks["pid"][rank]:
            raise ValueError(f"rank {rank} has joined this group before")
        self._ranks["generation"][rank] = generation
        self._ranks["pid"][rank] = os.getpid()

    @property
    def closed(self) -> bool:
        """Whether this rank has left."""
        return bool(self._ranks["closed"][self.rank])

    def close(self) -> None:
        """Leave, so that those that wait for this rank learn of it."""
        self._ranks["closed"][self.rank] = 1

    def slots(self) -> U8:
        """Every rank's data of the latest round. Shapes: (size, SLOT_BYTES)."""
        return self._slots_RPB[:, self._step % 2]

    def next_slot(self) -> U8:
        """The memory into which this rank writes its data of the next round."""
        return self._slots_RPB[self.rank, (self._step + 1) % 2]

    def call_of(self, rank: int) -> tuple[int, int, int]:
        """What a rank had called at the time of this one's latest call: operation, bytes, generation."""
        call = self._ranks["calls"][rank, self._num_calls % 2]
        return int(call["operation"]), int(call["num_bytes"]), int(self._ranks["generation"][rank])

    def begin(self, operation: CallKind, num_bytes: int, detail: int, timeout_s: float) -> Failed | None:
        """Declare what the next rounds are for and when they must end; the first one detects peers that call something
        else."""
        if self.closed:
            return CallFailure.CLOSED, self.rank
        self._num_calls += 1
        self._ranks["calls"][self.rank, self._num_calls % 2] = (num_bytes, operation, detail)
        self._deadline_s, self._is_checked = time.monotonic() + timeout_s, False
        return None

    def round(self) -> Failed | None:
        """Publish this rank's slot and wait for all others. After a failure this rank has left."""
        self._step += 1
        self._steps[self.rank] = self._step
        try:
            failed = _first(self._wait_for(peer) for peer in range(self.size))
        except BaseException:  # interrupted
            self._leave_for(self.rank)
            raise
        if failed is None and not self._is_checked:
            self._is_checked, failed = True, _first(self._mismatch(peer) for peer in range(self.size))
        if failed is not None:
            self._leave_for(failed[1])
        return failed

    def _leave_for(self, rank: int) -> None:
        """Leave in the middle of a call because of a rank. Those that wait cannot finish it; all learn which rank is to
        blame."""
        self._ranks["lost"][self.rank] = rank + 1
        self.close()

    def _mismatch(self, peer: int) -> Failed | None:
        calls, generations = self._ranks["calls"][:, self._num_calls % 2], self._ranks["generation"]
        if calls[peer] == calls[self.rank] and generations[peer] == generations[self.rank]:
            return None
        return CallFailure.MISMATCH, peer

    def _wait_for(self, peer: int) -> Failed | None:
        sleep_s = _SHORTEST_SLEEP_S
        while not self._has_come(peer):
            if failed := self._trouble(peer):
                return failed
            time.sleep(sleep_s)
            sleep_s = min(2 * sleep_s, _LONGEST_SLEEP_S)
        return None

    def _has_come(self, peer: int) -> bool:
        return int(self._steps[peer]) >= self._step

    def _trouble(self, awaited: int) -> Failed | None:
        """Why waiting is useless. What a rank published before it left still counts."""
        if self.closed:
            return CallFailure.CLOSED, self.rank
        failed = _first(self._absence(peer) for peer in range(self.size))
        if failed is None and time.monotonic() >= self._deadline_s:
            failed = CallFailure.LATE, awaited
        return None if self._has_come(awaited) else failed

    def _absence(self, peer: int) -> Failed | None:
        """Why a peer that has not come never will: it is gone, or it has found that another one is."""
        if self._ranks["closed"][peer]:
            lost = int(self._ranks["lost"][peer]) - 1
            if lost not in (-1, self.rank):
                return CallFailure.LEFT, lost
            return None if lost == -1 and self._has_come(peer) else (CallFailure.LEFT, peer)
        return None if self._has_come(peer) or self._lives(peer) or self._has_come(peer) else (CallFailure.DEAD, peer)

    def _lives(self, peer: int) -> bool:
        """False once the peer's process has ended; a rank that has not joined yet counts as alive."""
        pid = int(self._ranks["pid"][peer])
        if pid in (0, os.getpid()):
            return True
        if peer not in self._alive:
            self._alive[peer] = self._watch(pid)
        return self._alive[peer]()

    def _watch(self, pid: int) -> PeerAlive:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return lambda: False
        except OSError:  # no pidfd: only the deadline detects the death of this peer
            return lambda: True
        weakref.finalize(self, os.close, pidfd)
        return process_alive(pidfd)


def _first(failures: Iterable[Failed | None]) -> Failed | None:
    return next((failed for failed in failures if failed is not None), None)

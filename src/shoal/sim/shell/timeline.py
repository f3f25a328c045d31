"""The timeline of virtual time, and the happenings that concern workers and machines."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from shoal.sim.faults import Absence, Crash, Hang, Replacement, ReplicaJoins, Slowdown
from shoal.sim.simulated_workers import SimulatedWorkers


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersLoaded:
    """Started workers are ready, or have failed."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    fails: bool
    is_replacement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksBroken:
    """The links of dead workers are seen to be broken."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    is_crash: bool


class WorkersAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of workers arrives."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineUnreachable:
    """An attempt to start workers has shown that the machine of one accepts no connections."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineBack:
    """A machine returns."""

    absence: Absence


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLook:
    """The machines are polled."""

    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDue:
    """The scheduler or fleet needs a `Tick`."""


_SETTLING = WorkersLoaded | LinksBroken | MachineUnreachable | MachineLook
"""Happenings that show that a fault is not over."""
_FIXED = Crash | Hang | Slowdown | Replacement | ReplicaJoins | Absence | MachineBack
"""Happenings at given times."""


class Timeline:
    """Happenings ordered by time; those of the same time stay in the order in which they were added."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, object]] = []
        self._num_put = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def next_s(self) -> float:
        """The time of the next happening; there must be one."""
        return self._queue[0][0]

    def put(self, at_s: float, happening: object) -> None:
        """Schedule a happening."""
        heapq.heappush(self._queue, (at_s, self._num_put, happening))
        self._num_put += 1

    def take(self, now_s: float) -> Iterator[object]:
        """Remove and yield everything that happens at `now_s`, the next time, including what is added meanwhile."""
        while self._queue and self._queue[0][0] == now_s:
            yield heapq.heappop(self._queue)[2]

    def quiet_until_s(self) -> float | None:
        """The time of the next fault or return, infinite if there is none; None: the latest one is not over."""
        if any(isinstance(one, _SETTLING) for _, _, one in self._queue):
            return None
        return min((at_s for at_s, _, one in self._queue if isinstance(one, _FIXED)), default=inf)

    def put_off(self, seconds: float, moved: Callable[[object, float], object]) -> None:
        """Postpone everything except faults and returns.

        Args:
            seconds: how much later.
            moved: gives the postponed form of a happening that contains times of its own.
        """
        later = [
            entry if isinstance(entry[2], _FIXED) else (entry[0] + seconds, entry[1], moved(entry[2], seconds))
            for entry in self._queue
        ]
        heapq.heapify(later)
        self._queue = later

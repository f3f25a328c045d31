"""The shell around recovery in virtual time: it starts, stops and breaks simulated workers and decides nothing.

What the work is, and who schedules it, is a subclass's matter: steps in simulation.py, batches in batches/.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import count
from math import inf, isfinite
from random import Random
from typing import Any, Generic, assert_never

from shoal.core.recovery.events import (
    GiveUp,
    RecoveryEffect,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    ReportRecovery,
    ReportSpeed,
    StartWorkers,
    StopWorkers,
    Tick,
    WorkersProgressed,
)
from shoal.core.recovery.recovery import RecoveryStats
from shoal.sim.faults import Absence, Crash, Fault, Hang, Replacement, ReplicaJoins, Slowdown, Starting
from shoal.sim.shell.virtual_machines import LOOK_S, PROBE_S, VirtualMachines
from shoal.sim.simulated_workers import LimitsT, ResultT, SimulatedWorkers, WorkT

MAX_TURNS = 100_000
"""a run that takes longer goes in circles"""
_RESTORED_WITHIN_S = 12.0
"""Of a machine's return: at once when it is seen, or 10 s after a replica was first seen to lack workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """Workers that were started are ready, or not."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    fails: bool
    is_replacement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broken:
    """The links of dead workers are seen to be broken."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    is_crash: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """Something that workers said arrives."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unreachable:
    """An attempt to start workers has found out that the machine of one takes no connections."""

    replica: int
    workers: SimulatedWorkers[Any, Any, Any]
    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Back:
    """A machine is there again."""

    absence: Absence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """It is time to look for machines."""

    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """Who decides wanted to be woken."""


_SETTLING = _Loaded | _Broken | _Unreachable | _Look
"""What is to come while a fault is not over."""
_FIXED = Crash | Hang | Slowdown | Replacement | ReplicaJoins | Absence | _Back
"""What comes at times that are given."""


class VirtualShell(ABC, Generic[WorkT, ResultT, LimitsT]):
    """Runs what is in its queue until nothing is left to happen."""

    starts_without_any = True
    """whether a replica of one worker is started in its place elsewhere when that one's machine is gone"""

    def __init__(self, seed: int, starting: Starting, *, max_turns: int | None = MAX_TURNS) -> None:
        """Nothing has happened yet.

        Args:
            seed: of everything that is drawn.
            starting: how workers that are started again fare.
            max_turns: after which a run is taken to go in circles; None: its end is bounded otherwise.
        """
        self._max_turns = max_turns
        self.rng = Random(seed)
        self.workers: list[SimulatedWorkers[WorkT, ResultT, LimitsT]] = []
        """the latest of each replica: serving, being started or stopped"""
        self._seed = seed
        self._starting = starting
        self._queue: list[tuple[float, int, object]] = []
        self._num_queued = 0
        self._next_due_s: float | None = None
        self._seen_broken: set[int] = set()
        """replicas of which it is known which worker is gone"""
        self._machines = VirtualMachines()
        self.num_reduced = 0
        """times that a replica was started without a worker whose machine was gone"""
        self.num_restored = 0
        """times that a replica was given back its workers"""

    @abstractmethod
    def make_workers(
        self, replica: int, now_s: float, *, num_stages: int | None = None, without: int | None = None
    ) -> SimulatedWorkers[WorkT, ResultT, LimitsT]:
        """Workers of a replica, of a new one where there is none, in so many stages; None: as planned."""

    @abstractmethod
    def tell(
        self,
        event: WorkersProgressed | ReplicaReady[LimitsT] | ReplicaJoined[LimitsT] | ReplicaLost | Tick,
        now_s: float,
    ) -> None:
        """Let who decides handle an event, and carry out what it wants."""

    @abstractmethod
    def num_workers(self, replica: int) -> int:
        """That a replica is planned with."""

    @abstractmethod
    def recovery_stats(self) -> RecoveryStats:
        """How the replicas' workers are."""

    @abstractmethod
    def take_answer(self, replica: int, result: ResultT, now_s: float) -> None:
        """Workers have answered something."""

    @abstractmethod
    def happen(self, happening: object, now_s: float) -> None:
        """Something of the subclass's own that was `put`."""

    @abstractmethod
    def wake_s(self) -> float | None:
        """When who decides wants to be woken."""

    @abstractmethod
    def is_over(self) -> bool:
        """Whether no replica has workers or will have some."""

    @abstractmethod
    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        """A replica's workers were stopped, because they are lost or because others take their place."""

    @abstractmethod
    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""

    def settle(self, now_s: float) -> None:
        """Called before something happens that may concern any replica: what is put off is to be done."""

    def load_s(self, replica: int) -> float:
        """Seconds that the workers of a replica load after a loss."""
        return self.rng.uniform(self._starting.shortest_s, self._starting.longest_s)

    def longest_load_s(self, replica: int) -> float:
        """Seconds that all of them load, beside those that serve."""
        return self._starting.longest_s

    def put(self, at_s: float, happening: object) -> None:
        """Let something happen."""
        heapq.heappush(self._queue, (at_s, self._num_queued, happening))
        self._num_queued += 1

    def quiet_until_s(self) -> float | None:
        """When the next fault or return comes, infinite where there is none; None: the latest one is not over."""
        if any(isinstance(one, _SETTLING) for _, _, one in self._queue):
            return None
        return min((at_s for at_s, _, one in self._queue if isinstance(one, _FIXED)), default=inf)

    def put_off(self, seconds: float) -> None:
        """Let everything that is under way happen so much later, but for faults and returns."""
        moved = [
            entry if isinstance(entry[2], _FIXED) else (entry[0] + seconds, entry[1], self.moved(entry[2], seconds))
            for entry in self._queue
        ]
        heapq.heapify(moved)
        self._queue = moved
        if self._next_due_s is not None:
            self._next_due_s += seconds

    def moved(self, happening: object, seconds: float) -> object:
        """What is put off, where it holds times of its own."""
        return happening

    def run_to_end(self) -> float:
        """Everything until nothing is left to happen. Returns when that is."""
        now_s = 0.0
        for _ in count() if self._max_turns is None else range(self._max_turns):
            if not self._queue:
                return now_s
            now_s = self._queue[0][0]
            while self._queue and self._queue[0][0] == now_s:
                self._happen(heapq.heappop(self._queue)[2], now_s)
            self.tell(Tick(), now_s)
            self.check()
            self._queue_wake(now_s)
        raise AssertionError(f"seed {self._seed}: no end after {self._max_turns} turns")

    def send(self, replica: int, work: WorkT, now_s: float) -> None:
        """Send work to a replica's workers, who answer in their time, if they do."""
        workers = self.workers[replica]
        for at_s, result in workers.run(work, now_s):
            self.put_answer(replica, result, at_s)

    def put_answer(self, replica: int, result: ResultT, at_s: float) -> None:
        """Let the present workers of a replica answer."""
        self.put(at_s, _Answered(replica=replica, workers=self.workers[replica], result=result))

    def break_workers(self, replica: int, now_s: float, *, hangs: bool, is_crash: bool, noticed_after_s: float) -> None:
        """What a replica computes breaks it, now: its workers hang, or die, which is seen a little later."""
        workers = self.workers[replica]
        if not workers.is_silent and not hangs:
            self.put(now_s + noticed_after_s, _Broken(replica=replica, workers=workers, is_crash=is_crash))
        workers.is_silent = True

    def carry_out(self, effect: RecoveryEffect, now_s: float) -> None:
        """Do what recovery wants done."""
        match effect:
            case StopWorkers(replica=replica, keep=keep):
                assert keep or replica not in self._seen_broken, "survivors are not to be used again"
                self._seen_broken.discard(replica)
                self.workers[replica].is_stopped = True
                self.note_stopped(replica, on_purpose=False)
            case StartWorkers(replica=replica, without=without):
                self._start(replica, without, now_s)
            case GiveUp() | ReportSpeed() | ReportRecovery():
                pass
            case _:
                assert_never(effect)

    def check_restored(self) -> None:
        """At the end: where every machine is there and workers start when they are told to, no replica lacks any."""
        if not self._starting.failure_probability:
            for replica, is_reduced in enumerate(self.recovery_stats().reduced):
                assert not is_reduced, f"replica {replica} was not given back its workers"

    def _queue_wake(self, now_s: float) -> None:
        """As a shell would sleep: until something is due, or happens before."""
        due_s = self.wake_s()
        if due_s is not None and (self._next_due_s is None or due_s < self._next_due_s):
            self._next_due_s = due_s
            self.put(max(due_s, now_s), _Due())

    def _happen(self, happening: object, now_s: float) -> None:
        match happening:
            case _Answered(replica=replica, workers=workers, result=result):
                if workers.still_says():
                    self.take_answer(replica, result, now_s)
            case _Due():
                self._next_due_s = None
                due_s = self.wake_s()
                if due_s is not None and due_s <= now_s:
                    self.settle(now_s)
            case _Loaded():
                self.settle(now_s)
                self._finish_loading(happening, now_s)
            case _Broken(replica=replica, workers=workers, is_crash=is_crash):
                self.settle(now_s)
                if not workers.is_stopped:
                    self._tell_lost(replica, "the link is broken", now_s, is_crash=is_crash)
            case _Unreachable(replica=replica, workers=workers, worker=worker):
                self.settle(now_s)
                if not workers.is_stopped:
                    self._tell_lost(replica, "its machine cannot be reached", now_s, unreachable=worker)
            case _Back(absence=absence):
                self._machines.come_back(absence.replica, absence.worker)
                self.put(now_s + LOOK_S, _Look(until_s=now_s + _RESTORED_WITHIN_S))
            case _Look(until_s=until_s):
                self._look(until_s, now_s)
            case Crash() | Hang() | Slowdown() | Replacement() | ReplicaJoins() | Absence():
                self.settle(now_s)
                self._befall(happening, now_s)
            case _:
                self.happen(happening, now_s)

    def _befall(self, fault: Fault, now_s: float) -> None:
        match fault:
            case Crash(replica=replica, noticed_after_s=noticed_after_s):
                workers = self.workers[replica]
                workers.is_silent = True
                self.put(now_s + noticed_after_s, _Broken(replica=replica, workers=workers, is_crash=False))
            case Hang(replica=replica):
                self.workers[replica].is_silent = True
            case Slowdown(replica=replica, factor=factor):
                self.workers[replica].slow_down(factor)
            case Replacement(replica=replica, load_s=load_s, num_stages=num_stages):
                workers = self.make_workers(replica, now_s, num_stages=num_stages)
                loaded = _Loaded(replica=replica, workers=workers, fails=False, is_replacement=True)
                self.put(now_s + load_s, loaded)
            case ReplicaJoins():
                self._join(now_s)
            case Absence(replica=replica, worker=worker, back_at_s=back_at_s):
                self._machines.leave(replica, worker)
                if self.workers[replica].without != worker:
                    self.workers[replica].is_silent = True
                if isfinite(back_at_s):
                    self.put(back_at_s, _Back(absence=fault))
                self.put(now_s + LOOK_S, _Look(until_s=now_s + _RESTORED_WITHIN_S))
            case _:
                assert_never(fault)

    def _start(self, replica: int, without: int | None, now_s: float) -> None:
        """Loading takes its time, shows progress half-way, and may fail; where a machine is gone, it does so soon."""
        if self.num_workers(replica) == 1 and not self.starts_without_any:
            without = None
        workers = self.make_workers(replica, now_s, without=without)
        workers.without = without
        self.workers[replica] = workers
        unreachable = self._machines.unreachable(replica, self.num_workers(replica), without)
        if unreachable is not None:
            self.put(now_s + PROBE_S, _Unreachable(replica=replica, workers=workers, worker=unreachable))
            return
        self.num_reduced += without is not None
        load_s = self.load_s(replica)
        self.tell(WorkersProgressed(replica=replica), now_s)
        fails = self.rng.random() < self._starting.failure_probability
        self.put(now_s + load_s, _Loaded(replica=replica, workers=workers, fails=fails))

    def _finish_loading(self, loaded: _Loaded, now_s: float) -> None:
        replica, workers = loaded.replica, loaded.workers
        if loaded.is_replacement:
            self._machines.changing.discard(replica)
            if self._machines.unreachable(replica, self.num_workers(replica), None) is not None:
                return
        if workers.is_stopped or (workers.is_silent and not loaded.fails):
            return
        if loaded.fails:
            self._tell_lost(replica, "it could not be loaded", now_s)
            return
        if loaded.is_replacement:
            self.workers[replica].is_stopped = True
            self.workers[replica] = workers
            self.note_stopped(replica, on_purpose=True)
        ready = ReplicaReady(
            replica=replica, limits=workers.limits, row_s=workers.row_s, is_replacement=loaded.is_replacement
        )
        self.tell(ready, now_s)

    def _tell_lost(
        self, replica: int, reason: str, now_s: float, *, is_crash: bool = False, unreachable: int | None = None
    ) -> None:
        """`unreachable`: the worker whose machine is gone."""
        self._seen_broken.add(replica)
        lost = ReplicaLost(
            replica=replica,
            reason=reason,
            worker=unreachable or 0,
            is_crash=is_crash,
            is_unreachable=unreachable is not None,
        )
        self.tell(lost, now_s)
        self._seen_broken.discard(replica)

    def _look(self, until_s: float, now_s: float) -> None:
        """Look for machines, and give replicas back what they have done without; others load beside the present."""
        stats = self.recovery_stats()
        sizes = [self.num_workers(replica) for replica in range(len(stats.phases))]
        for replica in self._machines.look(sizes, stats, now_s):
            self._machines.changing.add(replica)
            self.num_restored += 1
            workers = self.make_workers(replica, now_s)
            loaded = _Loaded(replica=replica, workers=workers, fails=False, is_replacement=True)
            self.put(now_s + self.longest_load_s(replica), loaded)
        if now_s < until_s and not self.is_over():
            self.put(now_s + LOOK_S, _Look(until_s=until_s))

    def _join(self, now_s: float) -> None:
        """Where nothing is left, everything has ended."""
        if self.is_over():
            return
        workers = self.make_workers(len(self.workers), now_s)
        self.workers.append(workers)
        self.tell(ReplicaJoined(limits=workers.limits, row_s=workers.row_s), now_s)

"""The shell around recovery in virtual time: it starts, stops and breaks simulated workers and decides nothing.

What the work is, and who schedules it, is a subclass's matter: steps in simulation.py, batches in batches/.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass
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
from shoal.sim.faults import Crash, Fault, Hang, Joining, Replacement, Slowdown, Starting
from shoal.sim.simulated_workers import LimitsT, ResultT, SimulatedWorkers, WorkT

MAX_TURNS = 100_000
"""a run that takes longer goes in circles"""


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
class _Due:
    """Who decides wanted to be woken."""


class VirtualShell(ABC, Generic[WorkT, ResultT, LimitsT]):
    """Runs what is in its queue until nothing is left to happen."""

    def __init__(self, seed: int, starting: Starting) -> None:
        """`starting`: how workers that are started again fare."""
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

    def put(self, at_s: float, happening: object) -> None:
        """Let something happen."""
        heapq.heappush(self._queue, (at_s, self._num_queued, happening))
        self._num_queued += 1

    def run_to_end(self) -> float:
        """Everything until nothing is left to happen. Returns when that is."""
        now_s = 0.0
        for _ in range(MAX_TURNS):
            if not self._queue:
                return now_s
            now_s = self._queue[0][0]
            while self._queue and self._queue[0][0] == now_s:
                self._happen(heapq.heappop(self._queue)[2], now_s)
            self.tell(Tick(), now_s)
            self.check()
            self._queue_wake(now_s)
        raise AssertionError(f"seed {self._seed}: no end after {MAX_TURNS} turns")

    def send(self, replica: int, work: WorkT, now_s: float) -> None:
        """Send work to a replica's workers, who answer in their time, if they do."""
        workers = self.workers[replica]
        for at_s, result in workers.run(work, now_s):
            self.put(at_s, _Answered(replica=replica, workers=workers, result=result))

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
            case _Loaded():
                self._finish_loading(happening, now_s)
            case _Broken(replica=replica, workers=workers, is_crash=is_crash):
                if not workers.is_stopped:
                    self._tell_lost(replica, "the link is broken", now_s, is_crash=is_crash)
            case Crash() | Hang() | Slowdown() | Replacement() | Joining():
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
            case Joining():
                self._join(now_s)
            case _:
                assert_never(fault)

    def _start(self, replica: int, without: int | None, now_s: float) -> None:
        """Loading takes its time, shows progress half-way, and may fail."""
        workers = self.make_workers(replica, now_s, without=without)
        self.workers[replica] = workers
        load_s = self.rng.uniform(self._starting.shortest_s, self._starting.longest_s)
        self.tell(WorkersProgressed(replica=replica), now_s)
        fails = self.rng.random() < self._starting.failure_probability
        self.put(now_s + load_s, _Loaded(replica=replica, workers=workers, fails=fails))

    def _finish_loading(self, loaded: _Loaded, now_s: float) -> None:
        replica, workers = loaded.replica, loaded.workers
        if workers.is_stopped or (workers.is_silent and not loaded.fails):
            return
        if loaded.fails:
            self._tell_lost(replica, "it could not be loaded", now_s, is_crash=False)
            return
        if loaded.is_replacement:
            self.workers[replica].is_stopped = True
            self.workers[replica] = workers
            self.note_stopped(replica, on_purpose=True)
        self.tell(ReplicaReady(replica=replica, limits=workers.limits, row_s=workers.row_s), now_s)

    def _tell_lost(self, replica: int, reason: str, now_s: float, *, is_crash: bool) -> None:
        self._seen_broken.add(replica)
        self.tell(ReplicaLost(replica=replica, reason=reason, worker=0, is_crash=is_crash), now_s)
        self._seen_broken.discard(replica)

    def _join(self, now_s: float) -> None:
        """Where nothing is left, everything has ended."""
        if self.is_over():
            return
        workers = self.make_workers(len(self.workers), now_s)
        self.workers.append(workers)
        self.tell(ReplicaJoined(limits=workers.limits, row_s=workers.row_s), now_s)

"""The shell around recovery in virtual time: it starts, stops and breaks simulated workers and decides nothing.

Subclasses add the work and its scheduler: steps in simulation.py, batches in batches/.
"""

from __future__ import annotations

from itertools import count
from math import isfinite
from random import Random
from typing import assert_never

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
from shoal.sim.faults import Absence, Crash, Fault, Hang, Replacement, ReplicaJoins, Slowdown, Starting
from shoal.sim.shell.interface import VirtualWork
from shoal.sim.shell.timeline import (
    DecisionDue,
    LinksBroken,
    MachineBack,
    MachineLook,
    MachineUnreachable,
    Timeline,
    WorkersAnswered,
    WorkersLoaded,
)
from shoal.sim.shell.virtual_machines import LOOK_S, PROBE_S, VirtualMachines
from shoal.sim.simulated_workers import LimitsT, ResultT, SimulatedWorkers, WorkT

MAX_TURNS = 100_000
"""A run with more turns is taken to be in an endless loop."""
_TICK = Tick()
_RESTORED_WITHIN_S = 12.0
"""Seconds from a machine's return within which a replica is restored: at once when the return is seen, or 10 s after
the replica was first seen to lack workers."""


class VirtualShell(VirtualWork[WorkT, ResultT, LimitsT]):
    """Runs the happenings of its timeline until none is left."""

    def __init__(self, seed: int, starting: Starting, *, max_turns: int | None = MAX_TURNS) -> None:
        """Start with an empty timeline.

        Args:
            seed: the seed of all random numbers.
            starting: how long restarted workers take, and how often they fail.
            max_turns: turns after which a run counts as endless; None: its end is bounded otherwise.
        """
        self._max_turns = max_turns
        self.rng = Random(seed)
        self.workers: list[SimulatedWorkers[WorkT, ResultT, LimitsT]] = []
        """The latest workers of each replica: serving, being started or stopped."""
        self._seed = seed
        self._starting = starting
        self._timeline = Timeline()
        self.put = self._timeline.put
        """See `Timeline.put`."""
        self.quiet_until_s = self._timeline.quiet_until_s
        """See `Timeline.quiet_until_s`."""
        self._next_due_s: float | None = None
        self._seen_broken: set[int] = set()
        """Replicas of which it is known which worker is gone."""
        self._machines = VirtualMachines()
        self.num_reduced = 0
        """The number of times that a replica was started without a worker whose machine was gone."""
        self.num_restored = 0
        """The number of times that a replica got its workers back."""

    def load_s(self, replica: int) -> float:
        """Seconds that the workers of a replica load after a loss."""
        return self.rng.uniform(self._starting.shortest_s, self._starting.longest_s)

    def longest_load_s(self, replica: int) -> float:
        """Seconds that a complete set of workers takes to load beside those that serve."""
        return self._starting.longest_s

    def put_off(self, seconds: float) -> None:
        """Postpone everything in progress, except faults and returns."""
        self._timeline.put_off(seconds, self.moved)
        if self._next_due_s is not None:
            self._next_due_s += seconds

    def moved(self, happening: object, seconds: float) -> object:
        """The postponed form of a happening that contains times of its own."""
        return happening

    def run_to_end(self) -> float:
        """Run until nothing is left to happen. Returns the time of the end."""
        now_s = 0.0
        for _ in count() if self._max_turns is None else range(self._max_turns):
            if not self._timeline:
                return now_s
            now_s = self._timeline.next_s
            for happening in self._timeline.take(now_s):
                self._happen(happening, now_s)
            self.tell(_TICK, now_s)
            self.check()
            self._queue_wake(now_s)
        raise AssertionError(f"seed {self._seed}: no end after {self._max_turns} turns")

    def send(self, replica: int, work: WorkT, now_s: float) -> None:
        """Send work to a replica's workers, and schedule their answers, if any."""
        workers = self.workers[replica]
        for at_s, result in workers.run(work, now_s):
            self.put_answer(replica, result, at_s)

    def put_answer(self, replica: int, result: ResultT, at_s: float) -> None:
        """Schedule an answer of a replica's present workers."""
        self.put(at_s, WorkersAnswered(replica=replica, workers=self.workers[replica], result=result))

    def break_workers(self, replica: int, now_s: float, *, hangs: bool, is_crash: bool, noticed_after_s: float) -> None:
        """Let a replica's work break it now: its workers hang, or die, which is noticed a little later."""
        workers = self.workers[replica]
        if not workers.is_silent and not hangs:
            self.put(now_s + noticed_after_s, LinksBroken(replica=replica, workers=workers, is_crash=is_crash))
        workers.is_silent = True

    def carry_out(self, effect: RecoveryEffect, now_s: float) -> None:
        """Carry out an effect of recovery."""
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
        """Check at the end that no replica lacks workers, if all machines are there and starts do not fail."""
        if not self._starting.failure_probability:
            for replica, is_reduced in enumerate(self.recovery_stats().reduced):
                assert not is_reduced, f"replica {replica} was not given back its workers"

    def _queue_wake(self, now_s: float) -> None:
        """Schedule the next wake-up, at which a real shell would end its sleep."""
        due_s = self.wake_s()
        if due_s is not None and (self._next_due_s is None or due_s < self._next_due_s):
            self._next_due_s = due_s
            self.put(max(due_s, now_s), DecisionDue())

    def _happen(self, happening: object, now_s: float) -> None:
        match happening:
            case WorkersAnswered(replica=replica, workers=workers, result=result):
                if workers.still_says():
                    self.take_answer(replica, result, now_s)
            case DecisionDue():
                self._next_due_s = None
                due_s = self.wake_s()
                if due_s is not None and due_s <= now_s:
                    self.settle(now_s)
            case WorkersLoaded():
                self.settle(now_s)
                self._finish_loading(happening, now_s)
            case LinksBroken(replica=replica, workers=workers, is_crash=is_crash):
                self.settle(now_s)
                if not workers.is_stopped:
                    self._tell_lost(replica, "the link is broken", now_s, is_crash=is_crash)
            case MachineUnreachable(replica=replica, workers=workers, worker=worker):
                self.settle(now_s)
                if not workers.is_stopped:
                    self._tell_lost(replica, "its machine cannot be reached", now_s, unreachable=worker)
            case MachineBack(absence=absence):
                self._machines.come_back(absence.replica, absence.worker)
                self.put(now_s + LOOK_S, MachineLook(until_s=now_s + _RESTORED_WITHIN_S))
            case MachineLook(until_s=until_s):
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
                self.put(now_s + noticed_after_s, LinksBroken(replica=replica, workers=workers, is_crash=False))
            case Hang(replica=replica):
                self.workers[replica].is_silent = True
            case Slowdown(replica=replica, factor=factor):
                self.workers[replica].slow_down(factor)
            case Replacement(replica=replica, load_s=load_s, num_stages=num_stages):
                workers = self.make_workers(replica, now_s, num_stages=num_stages)
                loaded = WorkersLoaded(replica=replica, workers=workers, fails=False, is_replacement=True)
                self.put(now_s + load_s, loaded)
            case ReplicaJoins():
                self._join(now_s)
            case Absence(replica=replica, worker=worker, back_at_s=back_at_s):
                self._machines.leave(replica, worker)
                if self.workers[replica].without != worker:
                    self.workers[replica].is_silent = True
                if isfinite(back_at_s):
                    self.put(back_at_s, MachineBack(absence=fault))
                self.put(now_s + LOOK_S, MachineLook(until_s=now_s + _RESTORED_WITHIN_S))
            case _:
                assert_never(fault)

    def _start(self, replica: int, without: int | None, now_s: float) -> None:
        """Start workers. Loading shows progress half-way and may fail; it fails soon if a machine is gone."""
        if self.num_workers(replica) == 1 and not self.starts_without_any:
            without = None
        workers = self.make_workers(replica, now_s, without=without)
        workers.without = without
        self.workers[replica] = workers
        unreachable = self._machines.unreachable(replica, self.num_workers(replica), without)
        if unreachable is not None:
            self.put(now_s + PROBE_S, MachineUnreachable(replica=replica, workers=workers, worker=unreachable))
            return
        self.num_reduced += without is not None
        load_s = self.load_s(replica)
        self.tell(WorkersProgressed(replica=replica), now_s)
        fails = self.rng.random() < self._starting.failure_probability
        self.put(now_s + load_s, WorkersLoaded(replica=replica, workers=workers, fails=fails))

    def _finish_loading(self, loaded: WorkersLoaded, now_s: float) -> None:
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
        """Pass on the loss of a replica. `unreachable`: the worker whose machine is gone, if any."""
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
        """Poll the machines, and restore replicas; new workers load beside the present ones."""
        stats = self.recovery_stats()
        sizes = [self.num_workers(replica) for replica in range(len(stats.phases))]
        for replica in self._machines.look(sizes, stats, now_s):
            self._machines.changing.add(replica)
            self.num_restored += 1
            workers = self.make_workers(replica, now_s)
            loaded = WorkersLoaded(replica=replica, workers=workers, fails=False, is_replacement=True)
            self.put(now_s + self.longest_load_s(replica), loaded)
        if now_s < until_s and not self.is_over():
            self.put(now_s + LOOK_S, MachineLook(until_s=until_s))

    def _join(self, now_s: float) -> None:
        """Let a replica join, unless all replicas are given up."""
        if self.is_over():
            return
        workers = self.make_workers(len(self.workers), now_s)
        self.workers.append(workers)
        self.tell(ReplicaJoined(limits=workers.limits, row_s=workers.row_s), now_s)

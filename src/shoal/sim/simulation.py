"""Runs a scenario in virtual time through the same core as production: a fleet that decides, a shell that obeys."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from random import Random
from typing import assert_never

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import Fleet
from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.recovery.events import (
    GiveUp,
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
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.errors import ShoalError
from shoal.protocol.messages import StepResult
from shoal.sim.blame import BlameWatch
from shoal.sim.faults import Crash, Fault, Hang, Joining, Poison, Replacement, Slowdown
from shoal.sim.invariants import FairnessWatch, Ledger, check_fleet, check_state, check_step
from shoal.sim.scenario import Scenario
from shoal.sim.simulated_workers import SimulatedWorkers
from shoal.sim.trace import describe

MAX_TURNS = 100_000
"""a run that takes longer goes in circles"""
_POISON_NOTICED_S = 0.003
NO_REPLICA = "no replica is left"
"""what every client is told when nothing can go on"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A request reaches the server."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abandoned:
    """Its client goes away."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """Workers that were started are ready, or not."""

    replica: int
    workers: SimulatedWorkers
    fails: bool
    is_replacement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broken:
    """The links of dead workers are seen to be broken."""

    replica: int
    workers: SimulatedWorkers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    replica: int
    workers: SimulatedWorkers
    result: StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """The fleet wanted to be woken."""


_Happening = _Sent | _Abandoned | Fault | _Loaded | _Broken | _Answered | _Due


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a scenario. Equal seeds give equal reports."""

    trace: tuple[tuple[float, FleetEvent | FleetEffect], ...]
    """everything that the fleet was told or wanted, in order, and when"""
    finished: dict[RequestId, RequestFinished]
    ended_at_s: float
    num_preemptions: int
    prefix_hit_tokens: int
    num_losses: int
    num_replays: int
    num_given_up: int

    def lines(self) -> list[str]:
        """The trace, for people."""
        return [f"{at_s:.6f} {describe(happened)}" for at_s, happened in self.trace]


class Simulation:
    """One run. Raises AssertionError as soon as an invariant breaks."""

    def __init__(self, scenario: Scenario) -> None:
        config = scenario.config
        self._scenario = scenario
        self._rng = Random(scenario.seed)
        self._poisons = {poison.request_id: poison for poison in scenario.poisons}
        self._costs = list(scenario.costs)
        self._workers = [self._make_workers(index, now_s=0.0) for index in range(len(scenario.costs))]
        """the latest of each replica: serving, being started or stopped"""
        self._fleet = Fleet(
            [config] * len(scenario.costs), scenario.recovery, [workers.row_s for workers in self._workers]
        )
        self._abandoned: set[RequestId] = set()
        self._queue: list[tuple[float, int, _Happening]] = []
        self._num_queued = 0
        self._next_due_s: float | None = None
        self._trace: list[tuple[float, FleetEvent | FleetEffect]] = []
        self._ledger = Ledger(config)
        self._blame = BlameWatch()
        self._fairness = [FairnessWatch() for _ in scenario.costs]
        self._num_given_up = 0
        self._touched: set[int] = set()
        """replicas whose scheduler may have changed since the latest check"""

    def run(self) -> Report:
        """Everything until nothing is left to happen."""
        self._queue_scenario()
        now_s = 0.0
        for _ in range(MAX_TURNS):
            if not self._queue:
                return self._conclude(now_s)
            now_s = self._queue[0][0]
            while self._queue and self._queue[0][0] == now_s:
                self._happen(heapq.heappop(self._queue)[2], now_s)
            self._tell(Tick(), now_s)
            self._check()
            self._queue_wake(now_s)
        raise AssertionError(f"seed {self._scenario.seed}: no end after {MAX_TURNS} turns")

    def _queue_scenario(self) -> None:
        for arrival in self._scenario.arrivals:
            self._ledger.add(arrival.request)
            self._put(arrival.at_s, _Sent(request=arrival.request))
            if arrival.cancelled_at_s is not None:
                self._put(arrival.cancelled_at_s, _Abandoned(request_id=arrival.request.request_id))
        for fault in self._scenario.faults:
            self._put(fault.at_s, fault)

    def _put(self, at_s: float, happening: _Happening) -> None:
        heapq.heappush(self._queue, (at_s, self._num_queued, happening))
        self._num_queued += 1

    def _queue_wake(self, now_s: float) -> None:
        """As a shell would sleep: until the fleet is due, or something happens before."""
        due_s = self._fleet.wake_s()
        if due_s is not None and (self._next_due_s is None or due_s < self._next_due_s):
            self._next_due_s = due_s
            self._put(max(due_s, now_s), _Due())

    def _make_workers(self, replica: int, now_s: float, num_micro_batches: int | None = None) -> SimulatedWorkers:
        config = self._scenario.config
        if num_micro_batches is not None:
            config = replace(config, num_micro_batches=num_micro_batches)
        return SimulatedWorkers(config, self._costs[replica], self._scenario.network, self._rng, now_s)

    def _happen(self, happening: _Happening, now_s: float) -> None:
        match happening:
            case _Sent(request=request):
                self._send_request(request, now_s)
            case _Abandoned(request_id=request_id):
                self._abandoned.add(request_id)
                self._tell(RequestCancelled(request_id=request_id), now_s)
            case Crash(replica=replica, noticed_after_s=noticed_after_s):
                self._workers[replica].is_silent = True
                self._put(now_s + noticed_after_s, _Broken(replica=replica, workers=self._workers[replica]))
            case Hang(replica=replica):
                self._workers[replica].is_silent = True
            case Slowdown(replica=replica, factor=factor):
                self._workers[replica].slow_down(factor)
            case Replacement(replica=replica, load_s=load_s, num_micro_batches=num_micro_batches):
                workers = self._make_workers(replica, now_s, num_micro_batches)
                loaded = _Loaded(replica=replica, workers=workers, fails=False, is_replacement=True)
                self._put(now_s + load_s, loaded)
            case Joining(replica=replica):
                self._join(replica, now_s)
            case _Loaded():
                self._finish_loading(happening, now_s)
            case _Broken(replica=replica, workers=workers):
                if not workers.is_stopped:
                    self._tell(ReplicaLost(replica=replica, reason="the link is broken", worker=0), now_s)
            case _Answered(replica=replica, workers=workers, result=result):
                self._answer(replica, workers, result, now_s)
            case _Due():
                self._next_due_s = None
            case _:
                assert_never(happening)

    def _send_request(self, request: Request, now_s: float) -> None:
        """A client that is gone by then, or that is refused, ends here."""
        try:
            self._fleet.check(request)
        except ShoalError as error:
            self._ledger.record(_refused(request, str(error)))
            return
        self._tell(RequestAdded(request=request), now_s)

    def _finish_loading(self, loaded: _Loaded, now_s: float) -> None:
        replica, workers = loaded.replica, loaded.workers
        if workers.is_stopped or (workers.is_silent and not loaded.fails):
            return
        if loaded.fails:
            self._tell(ReplicaLost(replica=replica, reason="it could not be loaded", worker=0), now_s)
            return
        if loaded.is_replacement:
            self._workers[replica].is_stopped = True
            self._workers[replica] = workers
            self._blame.note_stopped(replica)
        config = workers.config
        self._tell(ReplicaReady(replica=replica, limits=config, row_s=workers.row_s), now_s)

    def _join(self, alike: int, now_s: float) -> None:
        """A fleet of which nothing is left has ended."""
        if self._fleet.death is not None:
            return
        self._costs.append(self._costs[alike])
        workers = self._make_workers(len(self._workers), now_s)
        self._workers.append(workers)
        self._fairness.append(FairnessWatch())
        self._tell(ReplicaJoined(limits=workers.config, row_s=workers.row_s), now_s)

    def _answer(self, replica: int, workers: SimulatedWorkers, result: StepResult, now_s: float) -> None:
        if not workers.still_says():
            return
        if result.generation == self._fleet.replicas[replica].scheduler.generation:
            self._blame.note_answered(replica, result.step_id)
        self._tell(StepAnswered(replica=replica, result=result), now_s)

    def _tell(self, event: FleetEvent, now_s: float) -> None:
        self._trace.append((now_s, event))
        self._touched.update(replica.index for replica in self._fleet.replicas if replica.inbox)
        effects = self._fleet.handle(event, now_s)
        for effect in effects:  # steps come first, but what was answered before them is known
            if isinstance(effect, TokenProduced):
                self._blame.note_token(effect.request_id)
        for effect in effects:
            self._trace.append((now_s, effect))
            self._carry_out(effect, now_s)

    def _carry_out(self, effect: FleetEffect, now_s: float) -> None:
        match effect:
            case SubmitStep():
                self._submit(effect, now_s)
            case StopWorkers(replica=replica):
                self._touched.update(range(len(self._workers)))
                self._workers[replica].is_stopped = True
                self._blame.note_lost(replica)
            case StartWorkers(replica=replica, without=without):
                self._start(replica, without, now_s)
            case GiveUp():
                self._num_given_up += 1
                if self._fleet.death is not None:
                    self._ledger.end_all(NO_REPLICA)
            case ReportSpeed() | ReportRecovery():
                pass
            case TokenProduced():
                self._ledger.record(effect)
            case RequestFinished(request_id=request_id):
                if effect.breaks_workers:
                    self._blame.check_condemned(request_id)
                self._ledger.record(effect)
            case _:
                assert_never(effect)

    def _submit(self, effect: SubmitStep, now_s: float) -> None:
        """Send a step, and let it break its workers if it holds what does."""
        replica, step = effect.replica, effect.step
        scheduler = self._fleet.replicas[replica].scheduler
        check_step(scheduler.config, step, generation=scheduler.generation)
        chunks = scheduler.state.in_flight[step.step_id].chunks
        self._blame.note_sent(replica, step.step_id, [chunk.sequence.request.request_id for chunk in chunks])
        workers = self._workers[replica]
        poisons = [self._poisons.get(chunk.sequence.request.request_id) for chunk in chunks]
        for chunk, poison in zip(chunks, poisons, strict=True):
            if poison is not None and chunk.start <= poison.row < chunk.end:
                self._break(replica, workers, poison, now_s)
        for at_s, result in workers.run(step, now_s):
            self._put(at_s, _Answered(replica=replica, workers=workers, result=result))

    def _break(self, replica: int, workers: SimulatedWorkers, poison: Poison, now_s: float) -> None:
        if not workers.is_silent and not poison.hangs:
            self._put(now_s + _POISON_NOTICED_S, _Broken(replica=replica, workers=workers))
        workers.is_silent = True

    def _start(self, replica: int, without: int | None, now_s: float) -> None:
        """Loading takes its time, shows progress half-way, and may fail. Without a worker there is one stage less."""
        starting = self._scenario.starting
        stages = self._scenario.config.num_micro_batches
        workers = self._make_workers(replica, now_s, stages if without is None else max(1, stages - 1))
        self._workers[replica] = workers
        load_s = self._rng.uniform(starting.shortest_s, starting.longest_s)
        self._tell(WorkersProgressed(replica=replica), now_s)
        fails = self._rng.random() < starting.failure_probability
        self._put(now_s + load_s, _Loaded(replica=replica, workers=workers, fails=fails))

    def _check(self) -> None:
        for replica in self._touched:
            state = self._fleet.replicas[replica].scheduler.state
            check_state(state)
            self._fairness[replica].check(state)
        self._touched.clear()
        if self._fleet.death is None:
            unfinished = self._ledger.unfinished()
            check_fleet(self._fleet, unfinished)
            assert self._abandoned.isdisjoint(unfinished), "a request goes on though its client went away"

    def _conclude(self, now_s: float) -> Report:
        self._ledger.check_all_ended()
        schedulers = [replica.scheduler for replica in self._fleet.replicas]
        if self._fleet.death is None:
            assert not self._fleet.has_work, "something is left over"
            for scheduler in schedulers:
                assert not scheduler.has_unfinished, "something is left over"
                assert scheduler.stats().kv_usage == 0.0, "blocks leak"
        return Report(
            trace=tuple(self._trace),
            finished=self._ledger.finished,
            ended_at_s=now_s,
            num_preemptions=sum(scheduler.stats().num_preemptions for scheduler in schedulers),
            prefix_hit_tokens=sum(scheduler.stats().prefix_hit_tokens for scheduler in schedulers),
            num_losses=self._fleet.stats().num_losses,
            num_replays=sum(scheduler.stats().num_replays for scheduler in schedulers),
            num_given_up=self._num_given_up,
        )


def _refused(request: Request, message: str) -> RequestFinished:
    return RequestFinished(
        request_id=request.request_id,
        reason="error",
        num_prompt_tokens=len(request.prompt_ids),
        num_output_tokens=0,
        message=message,
    )

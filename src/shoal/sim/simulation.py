"""Runs a scenario in virtual time through the same core as production: routing, one scheduler a replica, faults."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from random import Random
from typing import assert_never

from shoal.core.events import (
    Effect,
    Event,
    RequestAdded,
    RequestCancelled,
    SendStep,
    StepCompleted,
    WorkersLost,
    WorkersReady,
)
from shoal.core.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.core.routing import ReplicaLoad, choose_replica
from shoal.core.scheduler import Scheduler
from shoal.errors import CapacityError
from shoal.protocol.messages import Step, StepResult
from shoal.sim.invariants import FairnessWatch, Ledger, check_state, check_step
from shoal.sim.scenario import Loss, Scenario
from shoal.sim.simulated_replica import SimulatedReplica

MAX_TURNS = 100_000
"""a run that takes longer goes in circles"""
_RETRY_S = 0.05
"""pause before a request that no replica could take is tried again"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A request reaches the router."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abandoned:
    """Its client goes away."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rebuilt:
    replica: int
    generation: int
    """the loss that it answers; a later loss makes it void"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    replica: int
    result: StepResult


_Happening = _Sent | _Abandoned | Loss | _Rebuilt | _Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a scenario. Equal seeds give equal reports."""

    trace: tuple[str, ...]
    """one line for everything that a scheduler was told or wanted, in order"""
    finished: dict[RequestId, RequestFinished]
    ended_at_s: float
    num_preemptions: int
    prefix_hit_tokens: int


class Simulation:
    """One run. Raises AssertionError as soon as an invariant breaks."""

    def __init__(self, scenario: Scenario) -> None:
        config = scenario.config
        self._scenario = scenario
        self._rng = Random(scenario.seed)
        self._schedulers = [Scheduler(config) for _ in scenario.costs]
        self._replicas = [
            SimulatedReplica(
                num_blocks=config.num_blocks,
                block_size=config.block_size,
                num_stages=config.num_micro_batches,
                cost=cost,
            )
            for cost in scenario.costs
        ]
        self._replica_of: dict[RequestId, int] = {}
        self._abandoned: set[RequestId] = set()
        self._queue: list[tuple[float, int, _Happening]] = []
        self._num_queued = 0
        self._trace: list[str] = []
        self._ledger = Ledger(config)
        self._fairness = [FairnessWatch() for _ in scenario.costs]

    def run(self) -> Report:
        """Everything until nothing is left to happen."""
        self._queue_scenario()
        now_s = 0.0
        for _ in range(MAX_TURNS):
            if not self._queue:
                return self._conclude(now_s)
            now_s = self._queue[0][0]
            for replica, events in self._gather(now_s).items():
                self._turn(replica, events, now_s)
        raise AssertionError(f"seed {self._scenario.seed}: no end after {MAX_TURNS} turns")

    def _queue_scenario(self) -> None:
        for arrival in self._scenario.arrivals:
            self._ledger.add(arrival.request)
            self._put(arrival.at_s, _Sent(request=arrival.request))
            if arrival.cancelled_at_s is not None:
                self._put(arrival.cancelled_at_s, _Abandoned(request_id=arrival.request.request_id))
        for loss in self._scenario.losses:
            self._put(loss.at_s, loss)

    def _put(self, at_s: float, happening: _Happening) -> None:
        heapq.heappush(self._queue, (at_s, self._num_queued, happening))
        self._num_queued += 1

    def _gather(self, now_s: float) -> dict[int, list[Event]]:
        """Everything that happens at this instant, by the replica that is told."""
        told: dict[int, list[Event]] = {}
        while self._queue and self._queue[0][0] == now_s:
            happening = heapq.heappop(self._queue)[2]
            for replica, event in self._translate(happening, now_s, told):
                told.setdefault(replica, []).append(event)
        return told

    def _translate(self, happening: _Happening, now_s: float, told: dict[int, list[Event]]) -> list[tuple[int, Event]]:
        match happening:
            case _Sent(request=request):
                return self._route(request, now_s, told)
            case _Abandoned(request_id=request_id):
                self._abandoned.add(request_id)
                replica = self._replica_of.get(request_id)
                return [] if replica is None else [(replica, RequestCancelled(request_id=request_id))]
            case Loss(replica=replica, rebuild_s=rebuild_s):
                generation = self._schedulers[replica].generation + 1
                self._put(now_s + rebuild_s, _Rebuilt(replica=replica, generation=generation))
                return [(replica, WorkersLost())]
            case _Rebuilt(replica=replica, generation=generation):
                if generation != self._schedulers[replica].generation:
                    return []
                self._replicas[replica].restart(now_s)
                return [(replica, WorkersReady())]
            case _Answered(replica=replica, result=result):
                return [(replica, StepCompleted(result=result))]
            case _:
                assert_never(happening)

    def _route(self, request: Request, now_s: float, told: dict[int, list[Event]]) -> list[tuple[int, Event]]:
        """Pick a replica, or come back later; an abandoned request ends here."""
        if request.request_id in self._abandoned:
            self._ledger.record(_end_unrouted(request))
            return []
        loads = [self._load(replica, told.get(replica, [])) for replica in range(len(self._schedulers))]
        try:
            replica = choose_replica(loads, prompt_tokens=len(request.prompt_ids))
        except CapacityError:
            self._put(now_s + _RETRY_S, _Sent(request=request))
            return []
        self._replica_of[request.request_id] = replica
        return [(replica, RequestAdded(request=request))]

    def _load(self, replica: int, told: list[Event]) -> ReplicaLoad:
        """The scheduler's own load and what it will be told in this very turn."""
        load = self._schedulers[replica].load(1.0 / self._scenario.costs[replica].seconds(1))
        added = [event.request for event in told if isinstance(event, RequestAdded)]
        return replace(
            load,
            prefill_tokens=load.prefill_tokens + sum(len(request.prompt_ids) for request in added),
            num_decoding=load.num_decoding + len(added),
        )

    def _turn(self, replica: int, events: list[Event], now_s: float) -> None:
        scheduler = self._schedulers[replica]
        for event in events:
            self._trace.append(f"{now_s:.6f} replica {replica} <- {_describe(event)}")
        for effect in scheduler.handle(events, now_s):
            self._trace.append(f"{now_s:.6f} replica {replica} -> {_describe(effect)}")
            if isinstance(effect, SendStep):
                self._send(replica, effect.step, now_s)
            else:
                self._ledger.record(effect)
        check_state(scheduler.state)
        self._fairness[replica].check(scheduler.state)

    def _send(self, replica: int, step: Step, now_s: float) -> None:
        check_step(self._scenario.config, step, generation=self._schedulers[replica].generation)
        result, done_s = self._replicas[replica].run(step, now_s)
        self._put(done_s, _Answered(replica=replica, result=result))
        if self._rng.random() < self._scenario.repeat_probability:
            self._put(done_s + self._rng.uniform(0, 0.1), _Answered(replica=replica, result=result))

    def _conclude(self, now_s: float) -> Report:
        self._ledger.check_all_ended()
        for scheduler in self._schedulers:
            assert not scheduler.has_unfinished, "something is left over"
            assert scheduler.stats().kv_usage == 0.0, "blocks leak"
        return Report(
            trace=tuple(self._trace),
            finished=self._ledger.finished,
            ended_at_s=now_s,
            num_preemptions=sum(scheduler.stats().num_preemptions for scheduler in self._schedulers),
            prefix_hit_tokens=sum(scheduler.stats().prefix_hit_tokens for scheduler in self._schedulers),
        )


def _end_unrouted(request: Request) -> RequestFinished:
    return RequestFinished(
        request_id=request.request_id,
        reason="cancelled",
        num_prompt_tokens=len(request.prompt_ids),
        num_output_tokens=0,
    )


def _describe(happened: Event | Effect) -> str:
    match happened:
        case RequestAdded(request=request):
            return f"added {request.request_id}"
        case RequestCancelled(request_id=request_id):
            return f"cancelled {request_id}"
        case StepCompleted(result=result):
            return f"result {result.step_id}.{result.generation} {[token.token_id for token in result.tokens]}"
        case SendStep(step=step):
            return f"step {step.step_id}.{step.generation} {step.num_tokens} rows of {step.num_sequences}"
        case TokenProduced():
            return f"token {happened.request_id} {happened.token_id}"
        case RequestFinished():
            return f"finished {happened.request_id} {happened.reason}"
        case WorkersLost():
            return "workers lost"
        case WorkersReady():
            return "workers ready"
        case _:
            assert_never(happened)

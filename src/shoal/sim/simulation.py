"""Runs a scenario of language-model requests in virtual time, through the same fleet as production."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.recovery.events import GiveUp, ReportRecovery, ReportSpeed, StartWorkers, StopWorkers
from shoal.core.recovery.recovery import RecoveryStats
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.errors import ShoalError
from shoal.protocol.language_messages import StepResult
from shoal.sim.blame import BlameWatch
from shoal.sim.faults import ReplicaJoins
from shoal.sim.invariants import FairnessWatch, Ledger, check_fleet, check_state, check_step
from shoal.sim.scenario import Scenario
from shoal.sim.shell.virtual_shell import VirtualShell
from shoal.sim.simulated_replica import StepWorkers
from shoal.sim.trace import describe

_POISON_NOTICED_S = 0.003
NO_REPLICA = "no replica is left"
"""The message to every client if all replicas are given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A request reaches the server."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abandoned:
    """The client of a request goes away."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a scenario. Equal seeds give equal reports."""

    trace: tuple[tuple[float, FleetEvent | FleetEffect], ...]
    """All events and effects of the fleet, in order, with their times."""
    finished: dict[RequestId, RequestFinished]
    ended_at_s: float
    num_preemptions: int
    prefix_hit_tokens: int
    num_losses: int
    num_replays: int
    num_given_up: int
    num_reduced: int
    """The number of times that a replica was started without a worker."""
    num_restored: int
    """The number of times that a replica got its workers back."""

    def lines(self) -> list[str]:
        """The trace as text."""
        return [f"{at_s:.6f} {describe(happened)}" for at_s, happened in self.trace]


class Simulation(VirtualShell[StepWork, StepResult, SchedulerConfig]):
    """One run. Raises AssertionError as soon as an invariant breaks."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario.seed, scenario.starting)
        config = scenario.config
        self._scenario = scenario
        self._poisons = {poison.request_id: poison for poison in scenario.poisons}
        self._costs = list(scenario.costs)
        self.workers += [self.make_workers(index, now_s=0.0) for index in range(len(scenario.costs))]
        self._fleet = ReplicaFleet(
            [config] * len(scenario.costs), scenario.recovery, [one.row_s for one in self.workers]
        )
        self._abandoned: set[RequestId] = set()
        self._trace: list[tuple[float, FleetEvent | FleetEffect]] = []
        self._ledger = Ledger(config)
        self._blame = BlameWatch()
        self._fairness = [FairnessWatch() for _ in scenario.costs]
        self._num_given_up = 0
        self._touched: set[int] = set()
        """Replicas whose scheduler may have changed since the latest check."""

    def run(self) -> Report:
        """Run until nothing is left to happen."""
        for arrival in self._scenario.arrivals:
            self._ledger.add(arrival.request)
            self.put(arrival.at_s, _Sent(request=arrival.request))
            if arrival.cancelled_at_s is not None:
                self.put(arrival.cancelled_at_s, _Abandoned(request_id=arrival.request.request_id))
        for fault in self._scenario.faults:
            self.put(fault.at_s, fault)
        return self._conclude(self.run_to_end())

    def make_workers(
        self, replica: int, now_s: float, *, num_stages: int | None = None, without: int | None = None
    ) -> StepWorkers:
        """Make workers; without one of them there is one stage less. All workers of a replica that joins are alike."""
        if replica == len(self._costs):
            (joining,) = [one for one in self._scenario.faults if isinstance(one, ReplicaJoins)]
            self._costs.append(self._costs[joining.replica])
        config = self._scenario.config
        num_stages = num_stages or max(1, config.num_micro_batches - (without is not None))
        config = replace(config, num_micro_batches=num_stages)
        return StepWorkers(config, self._costs[replica], self._scenario.network, self.rng, now_s)

    def num_workers(self, replica: int) -> int:
        return self._scenario.config.num_micro_batches

    def recovery_stats(self) -> RecoveryStats:
        return self._fleet.stats()

    def wake_s(self) -> float | None:
        return self._fleet.wake_s()

    def is_over(self) -> bool:
        return self._fleet.death is not None

    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        if on_purpose:
            self._blame.note_stopped(replica)
        else:
            self._touched.update(range(len(self._fleet.replicas)))
            self._blame.note_lost(replica)

    def happen(self, happening: object, now_s: float) -> None:
        match happening:
            case _Sent(request=request):
                self._send_request(request, now_s)
            case _Abandoned(request_id=request_id):
                self._abandoned.add(request_id)
                self.tell(RequestCancelled(request_id=request_id), now_s)
            case _:
                raise AssertionError(f"{happening} is not known")

    def take_answer(self, replica: int, result: StepResult, now_s: float) -> None:
        if result.generation == self._fleet.replicas[replica].scheduler.generation:
            self._blame.note_answered(replica, result.step_id)
        self.tell(StepAnswered(replica=replica, result=result), now_s)

    def tell(self, event: FleetEvent, now_s: float) -> None:
        self._trace.append((now_s, event))
        self._touched.update(replica.index for replica in self._fleet.replicas if replica.inbox)
        effects = self._fleet.handle(event, now_s)
        self._fairness += [FairnessWatch() for _ in range(len(self._fleet.replicas) - len(self._fairness))]
        for effect in effects:  # steps come first, but the answers before them are known
            if isinstance(effect, TokenProduced):
                self._blame.note_token(effect.request_id)
        for effect in effects:
            self._trace.append((now_s, effect))
            self._obey(effect, now_s)

    def check(self) -> None:
        for replica in self._touched:
            state = self._fleet.replicas[replica].scheduler.state
            check_state(state)
            self._fairness[replica].check(state)
        self._touched.clear()
        if self._fleet.death is None:
            unfinished = self._ledger.unfinished()
            check_fleet(self._fleet, unfinished)
            assert self._abandoned.isdisjoint(unfinished), "a request goes on though its client went away"

    def _send_request(self, request: Request, now_s: float) -> None:
        """Send a request, unless its client has gone away. If it is refused, it ends here."""
        try:
            self._fleet.check(request)
        except ShoalError as error:
            self._ledger.record(_refused(request, str(error)))
            return
        self.tell(RequestAdded(request=request), now_s)

    def _obey(self, effect: FleetEffect, now_s: float) -> None:
        match effect:
            case SubmitStep():
                self._submit(effect, now_s)
            case StopWorkers() | StartWorkers() | ReportSpeed() | ReportRecovery():
                self.carry_out(effect, now_s)
            case GiveUp():
                self._num_given_up += 1
                if self._fleet.death is not None:
                    self._ledger.end_all(NO_REPLICA)
            case TokenProduced():
                self._ledger.record(effect)
            case RequestFinished(request_id=request_id):
                if effect.breaks_workers:
                    self._blame.check_condemned(request_id)
                self._ledger.record(effect)
            case _:
                assert_never(effect)

    def _submit(self, effect: SubmitStep, now_s: float) -> None:
        """Send a step, and let it break its workers if it contains poison."""
        replica, step = effect.replica, effect.step
        scheduler = self._fleet.replicas[replica].scheduler
        check_step(scheduler.config, step, generation=scheduler.generation)
        chunks = scheduler.state.in_flight[step.step_id].chunks
        self._blame.note_sent(replica, step.step_id, [chunk.sequence.request.request_id for chunk in chunks])
        for chunk in chunks:
            poison = self._poisons.get(chunk.sequence.request.request_id)
            if poison is not None and chunk.start <= poison.row < chunk.end:
                self.break_workers(
                    replica, now_s, hangs=poison.hangs, is_crash=False, noticed_after_s=_POISON_NOTICED_S
                )
        self.send(replica, effect.work, now_s)

    def _conclude(self, now_s: float) -> Report:
        self._ledger.check_all_ended()
        schedulers = [replica.scheduler for replica in self._fleet.replicas]
        if self._fleet.death is None:
            self.check_restored()
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
            num_reduced=self.num_reduced,
            num_restored=self.num_restored,
        )


def _refused(request: Request, message: str) -> RequestFinished:
    return RequestFinished(
        request_id=request.request_id,
        reason="error",
        num_prompt_tokens=len(request.prompt_ids),
        num_output_tokens=0,
        message=message,
    )

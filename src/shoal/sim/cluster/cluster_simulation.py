"""A planned cluster under traffic in virtual time: the same fleet as in production, with workers of predicted speed.

Routing, steps, cached blocks and recovery are decided by `core`, event by event, as in a server. Only times are
predicted: those of steps, messages and loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.admission import EndRate, reason_to_refuse
from shoal.core.generation.events import RequestAdded
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.recovery.events import GiveUp, ReportRecovery, ReportSpeed, StartWorkers, StopWorkers
from shoal.core.recovery.recovery import RecoveryStats
from shoal.core.sequences.request import RequestFinished, RequestId, TokenProduced
from shoal.core.speed.replica_speed import SpeedMeter
from shoal.errors import ShoalError
from shoal.protocol.language_messages import StepResult
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.known_speed import KnownSpeedMeter
from shoal.sim.cluster.outcome import AnsweredRequests, SimulationOutcome, make_outcome
from shoal.sim.cluster.predicted_workers import PredictedWorkers
from shoal.sim.cluster.shared_head import SharedCores, SharedHead
from shoal.sim.cluster.stretch import Stretch, Stretches
from shoal.sim.faults import Starting
from shoal.sim.invariants import check_fleet, check_state
from shoal.sim.shell.virtual_shell import VirtualShell
from shoal.sim.traffic.visit import Clients, Visit

_CHECK_EVERY = 4096
"""Turns between two checks of all invariants, which inspect every block; every loss is followed by a check, too."""
_NO_STARTING = Starting(shortest_s=0.0, longest_s=0.0, failure_probability=0.0)
"""Unused bounds: the loading time of each worker is predicted."""


@dataclass(slots=True)
class _Open:
    """An open request."""

    arrived_s: float
    first_s: float | None = None
    latest_s: float = 0.0
    """When its client received the latest token."""

    def put_off(self, seconds: float) -> None:
        """Move all of its times into the future."""
        self.arrived_s += seconds
        self.latest_s += seconds
        self.first_s = None if self.first_s is None else self.first_s + seconds


@dataclass(frozen=True, slots=True)
class _TakenIn:
    """The server has read a request."""

    visit: Visit


class ClusterSimulation(VirtualShell[StepWork, StepResult, SchedulerConfig]):
    """One run. Raises AssertionError as soon as an invariant breaks."""

    starts_without_any = False

    def __init__(self, scenario: ClusterScenario, on_progress: Callable[[float], None] = lambda now_s: None) -> None:
        """`on_progress`: called with the virtual time now and then."""
        super().__init__(scenario.seed, _NO_STARTING, max_turns=None)
        self._scenario, self._on_progress = scenario, on_progress
        cores = None if scenario.num_cores is None else SharedCores(scenario.num_cores)
        self._head = SharedHead(scenario.serving, cores)
        is_steady = scenario.is_steady
        self.workers += [self.make_workers(index, 0.0) for index in range(len(scenario.replicas))]
        self._fleet = ReplicaFleet(
            [one.limits for one in self.workers],
            scenario.recovery,
            [one.row_s for one in self.workers],
            routing=scenario.routing,
            make_meter=self._known_meter if is_steady else None,
        )
        self._may_stretch = is_steady and scenario.takes_stretches
        self._stretches = Stretches(self._fleet.replicas, self)
        self._visits: Iterator[Visit] = iter(())
        self._open: dict[RequestId, _Open] = {}
        self._num_sent = self._num_put = 0
        self._log = AnsweredRequests()
        self._end_rate = EndRate()
        self._num_given_up = 0
        self.num_turns = self._num_checks = 0
        self._must_check = False

    def run(self) -> tuple[SimulationOutcome, AnsweredRequests]:
        """Run until the last request has ended and nothing is left to happen."""
        for fault in self._scenario.faults:
            self.put(fault.at_s, fault)
        traffic = self._scenario.traffic
        if isinstance(traffic, Clients):
            for _ in range(traffic.count):
                self._put_next_of(traffic, 0.0)
        else:
            self._visits = self.visits_of(traffic)
            self._put_next_visit()
        self.run_to_end()
        self._check_all()
        return self._outcome(), self._log

    def visits_of(self, traffic: Iterator[Visit]) -> Iterator[Visit]:
        """The visits of the traffic to simulate."""
        return traffic

    def make_workers(
        self, replica: int, now_s: float, *, num_stages: int | None = None, without: int | None = None
    ) -> PredictedWorkers:
        assert num_stages is None, "nobody gives a simulated replica other stages"
        plan = self._scenario.replicas[replica]
        if without is not None:
            plan = self._scenario.without_worker(replica, without)
        return PredictedWorkers(plan, self._head, self.rng, now_s)

    def _known_meter(self, replica: int) -> SpeedMeter:
        """The speed meter of the present workers."""
        workers = self.workers[replica]
        assert isinstance(workers, PredictedWorkers)
        return KnownSpeedMeter(workers.speed)

    def load_s(self, replica: int) -> float:
        return max(self._scenario.replicas[replica].worker_load_s)

    def longest_load_s(self, replica: int) -> float:
        return self.load_s(replica)

    def num_workers(self, replica: int) -> int:
        return len(self._scenario.replicas[replica].workers)

    def recovery_stats(self) -> RecoveryStats:
        return self._fleet.stats()

    def wake_s(self) -> float | None:
        return self._fleet.wake_s()

    def is_over(self) -> bool:
        return self._fleet.death is not None

    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        self._must_check = True

    def happen(self, happening: object, now_s: float) -> None:
        match happening:
            case Visit():
                self._begin(happening, now_s)
            case _TakenIn(visit):
                self._receive(visit, now_s)
            case Stretch():
                self._stretches.end(happening, now_s)
            case _:
                raise AssertionError(f"{happening} is not known")

    def take_answer(self, replica: int, result: StepResult, now_s: float) -> None:
        self.tell(StepAnswered(replica=replica, result=result), now_s)

    def tell(self, event: FleetEvent, now_s: float) -> None:
        for effect in self._fleet.handle(event, now_s):
            self._obey(effect, now_s)

    def check(self) -> None:
        self.num_turns += 1
        if self._must_check or self.num_turns % _CHECK_EVERY == 0:
            self._must_check = False
            self._check_all()

    def _check_all(self) -> None:
        """Check that blocks are conserved, limits are kept, and every open request is with exactly one replica."""
        self._num_checks += 1
        for replica in self._fleet.replicas:
            check_state(replica.scheduler.state)
        if self._fleet.death is None:
            check_fleet(self._fleet, self._open.keys())

    def _put_next_visit(self) -> None:
        visit = next(self._visits, None)
        if visit is not None:
            self.put(visit.at_s, visit)

    def _put_next_of(self, clients: Clients, now_s: float) -> None:
        """Schedule a client's next request, if there is another."""
        is_enough = clients.num_requests is not None and self._num_put >= clients.num_requests
        if now_s < clients.until_s and not is_enough:
            self._num_put += 1
            self.put(
                now_s,
                Visit(at_s=now_s, prompt_tokens=clients.prompt_tokens, output_tokens=clients.output_tokens),
            )

    def _begin(self, visit: Visit, now_s: float) -> None:
        """Let a client send a request."""
        if not isinstance(self._scenario.traffic, Clients):
            self._put_next_visit()
        taken_in_s = self._head.take_in(now_s)
        if taken_in_s == now_s:
            self._receive(visit, now_s)
        else:
            self.put(taken_in_s, _TakenIn(visit))

    def _receive(self, visit: Visit, now_s: float) -> None:
        """Do what a server does with a request before any decision about it."""
        number = self._num_sent
        self._num_sent += 1
        self._on_progress(now_s)
        if not self._open:
            self._end_rate.note_start(now_s)
        try:
            self._check_queue(now_s)
            request = visit.request(number)
            self._fleet.check(request)
        except ShoalError as error:
            self._log.refuse(str(error))
            return
        self._stretches.take_prompts(now_s)
        self._open[request.request_id] = _Open(visit.at_s)
        self.tell(RequestAdded(request=request), now_s)
        self._stretches.end_of(self._fleet.replica_of(request.request_id), now_s)

    def _check_queue(self, now_s: float) -> None:
        refusal = reason_to_refuse(
            self._scenario.admission,
            num_new=1,
            num_unfinished=len(self._open),
            max_running=self._fleet.max_running,
            rate=self._end_rate,
            now_s=now_s,
        )
        if refusal is not None:
            raise refusal

    def _obey(self, effect: FleetEffect, now_s: float) -> None:
        match effect:
            case SubmitStep(replica=replica, work=work):
                self._send_step(replica, work, now_s)
            case TokenProduced(request_id=request_id):
                one = self._open[request_id]
                one.latest_s = self._head.tell(now_s)
                one.first_s = one.latest_s if one.first_s is None else one.first_s
            case RequestFinished():
                self._finish(effect, now_s)
            case StopWorkers() | StartWorkers() | ReportSpeed() | ReportRecovery():
                self.carry_out(effect, now_s)
            case GiveUp():
                self._num_given_up += 1
                if self._fleet.death is not None:
                    self._log.num_lost += len(self._open)
                    self._open.clear()
            case _:
                assert_never(effect)

    def note_first_tokens(self, requests: Sequence[RequestId], at_s: float) -> None:
        """In stretches the head takes no time, so clients have tokens when they are produced."""
        for request_id in requests:
            self._open[request_id].first_s = self._open[request_id].latest_s = at_s

    def settle(self, now_s: float) -> None:
        self._stretches.end_all(now_s)

    def _send_step(self, replica: int, work: StepWork, now_s: float) -> None:
        """Send a step and, if possible, all that follow until the next decision."""
        workers = self.workers[replica]
        assert isinstance(workers, PredictedWorkers)
        if not self._may_stretch or not self._stretches.begin(replica, workers, work, now_s):
            self.send(replica, work, now_s)

    def _finish(self, finished: RequestFinished, now_s: float) -> None:
        one = self._open.pop(finished.request_id)
        self._end_rate.note_end(now_s)
        if one.first_s is None or finished.reason not in ("length", "stop"):
            self._log.num_lost += 1
        else:
            self._log.add(
                arrived_s=one.arrived_s,
                first_s=one.first_s,
                ended_s=one.latest_s,
                num_prompt=finished.num_prompt_tokens,
                num_output=finished.num_output_tokens,
            )
        traffic = self._scenario.traffic
        if isinstance(traffic, Clients):
            self._put_next_of(traffic, max(now_s, one.latest_s))

    def _outcome(self) -> SimulationOutcome:
        assert not self._open or self._fleet.death is not None, "a request has not ended"
        return make_outcome(
            self._log,
            self._fleet.stats(),
            [replica.scheduler.stats() for replica in self._fleet.replicas],
            busy_s=self._head.busy_s,
            workers=[machine for replica in self._scenario.replicas for machine in replica.workers],
            num_given_up=self._num_given_up,
            num_checks=self._num_checks,
        )

"""Runs a scenario of requests for an ONNX graph in virtual time, through the same scheduler as production."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from shoal.core.batching.events import (
    BatchCompleted,
    BatchLimits,
    BatchRefused,
    Effect,
    Event,
    InferenceAdded,
    InferenceCancelled,
    InferenceCompleted,
    InferenceFailed,
    SubmitBatch,
)
from shoal.core.batching.scheduler import BatchScheduler
from shoal.core.recovery.events import (
    GiveUp,
    ReplicaLost,
    ReplicaReady,
    ReportRecovery,
    ReportSpeed,
    StartWorkers,
    StopWorkers,
)
from shoal.core.recovery.recovery import RecoveryStats
from shoal.errors import ShoalError
from shoal.sim.batches.ledger import BatchLedger
from shoal.sim.batches.scenario import BatchScenario, SimulatedRequest
from shoal.sim.batches.workers import BatchWorkers, SimulatedBatch, SimulatedResult
from shoal.sim.faults import ReplicaJoins
from shoal.sim.shell.virtual_shell import VirtualShell

_POISON_NOTICED_S = 0.003


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abandoned:
    """A client goes away."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """The outcome of a run."""

    trace: tuple[tuple[float, str], ...]
    """All events and effects of the scheduler, with their times."""
    ended: dict[str, ShoalError | None]
    """The error of every request; None: it ended with outputs."""
    ended_at_s: float
    num_losses: int
    num_recoveries: int
    num_batches: int
    num_reduced: int
    """The number of times that a replica was started without a worker."""
    num_restored: int
    """The number of times that a replica got its workers back."""


class BatchSimulation(VirtualShell[SimulatedBatch, SimulatedResult, BatchLimits]):
    """One run. Raises AssertionError as soon as an invariant breaks."""

    def __init__(self, scenario: BatchScenario) -> None:
        super().__init__(scenario.seed, scenario.starting)
        self._scenario = scenario
        self._requests = {request.request_id: request for request in scenario.requests}
        self._stages, self._costs = list(scenario.stages), list(scenario.costs)
        self.workers += [self.make_workers(index, now_s=0.0) for index in range(len(scenario.stages))]
        self._scheduler = BatchScheduler(
            scenario.config,
            scenario.axes,
            [one.limits for one in self.workers],
            scenario.recovery,
            [one.row_s for one in self.workers],
        )
        self._ledger = BatchLedger()
        self._in_flight: dict[int, SubmitBatch] = {}
        """Batches in flight on the present workers, by id."""
        self._trace: list[tuple[float, str]] = []
        self._num_batches = 0

    def run(self) -> BatchReport:
        """Run until nothing is left to happen."""
        for request in self._scenario.requests:
            self.put(request.at_s, request)
            if request.cancelled_at_s is not None:
                self.put(request.cancelled_at_s, _Abandoned(request_id=request.request_id))
        for fault in self._scenario.faults:
            self.put(fault.at_s, fault)
        ended_at_s = self.run_to_end()
        self._ledger.check_all_ended()
        if not self.is_over():
            self.check_restored()
        stats = self._scheduler.recovery_stats()
        return BatchReport(
            trace=tuple(self._trace),
            ended=self._ledger.ended,
            ended_at_s=ended_at_s,
            num_losses=stats.num_losses,
            num_recoveries=stats.num_recoveries,
            num_batches=self._num_batches,
            num_reduced=self.num_reduced,
            num_restored=self.num_restored,
        )

    def make_workers(
        self, replica: int, now_s: float, *, num_stages: int | None = None, without: int | None = None
    ) -> BatchWorkers:
        """Make workers; without one of them there is one stage less. A replica that joins is a copy of another."""
        if replica == len(self._costs):
            (joining,) = [one for one in self._scenario.faults if isinstance(one, ReplicaJoins)]
            self._costs.append(self._costs[joining.replica])
            self._stages.append(self._stages[joining.replica])
        num_stages = num_stages or max(1, self._stages[replica] - (without is not None))
        limits = BatchLimits(num_stages=num_stages)
        scenario = self._scenario
        return BatchWorkers(
            limits, self._costs[replica], scenario.network, self.rng, now_s, cold_factor=scenario.cold_factor
        )

    def num_workers(self, replica: int) -> int:
        return self._stages[replica]

    def recovery_stats(self) -> RecoveryStats:
        return self._scheduler.recovery_stats()

    def wake_s(self) -> float | None:
        return self._scheduler.wake_s

    def is_over(self) -> bool:
        return self._scheduler.death is not None

    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        """Forget what the stopped workers had in flight."""
        for batch_id in [one.batch_id for one in self._in_flight.values() if one.replica == replica]:
            del self._in_flight[batch_id]

    def happen(self, happening: object, now_s: float) -> None:
        match happening:
            case SimulatedRequest():
                self._ledger.add(happening)
                self.tell(
                    InferenceAdded(
                        request_id=happening.request_id,
                        num_rows=happening.num_rows,
                        signature=happening.row_cost,
                        deadline_s=None if happening.timeout_s is None else now_s + happening.timeout_s,
                        row_cost=happening.row_cost,
                    ),
                    now_s,
                )
            case _Abandoned(request_id=request_id):
                self.tell(InferenceCancelled(request_id=request_id), now_s)
            case _:
                raise AssertionError(f"{happening} is not known")

    def take_answer(self, replica: int, result: SimulatedResult, now_s: float) -> None:
        """Take an answer as the engine does; unexpected ones are ignored."""
        batch = self._in_flight.pop(result.batch_id, None)
        if batch is None:
            return
        if result.is_refused:
            self._ledger.note_refused(batch.parts)
            self.tell(BatchRefused(replica=replica, batch_id=batch.batch_id, reason="it cannot be computed"), now_s)
        else:
            self._ledger.note_computed(batch.parts)
            self.tell(BatchCompleted(replica=replica, batch_id=batch.batch_id, compute_s=result.compute_s), now_s)

    def tell(self, event: Event, now_s: float) -> None:
        self._trace.append((now_s, repr(event)))
        in_flight = [*self._in_flight.values()]
        effects = self._scheduler.handle(event, now_s)
        for effect in effects:
            if isinstance(effect, StopWorkers):
                lost = [batch for batch in in_flight if batch.replica == effect.replica]
                self._ledger.note_lost(lost, is_crash=isinstance(event, ReplicaLost) and event.is_crash)
        if isinstance(event, ReplicaReady):
            self.note_stopped(event.replica, on_purpose=True)
        for effect in effects:
            self._trace.append((now_s, repr(effect)))
            self._obey(effect, now_s)

    def check(self) -> None:
        if not self.is_over():
            self._ledger.check(self._scheduler, self._in_flight.values())
            for replica in self._scheduler.replicas:
                own = {one.batch_id for one in self._in_flight.values() if one.replica == replica.index}
                assert replica.in_flight.keys() == own, "a batch is awaited in vain, or by nobody"
                assert not (own and replica.is_lost), "a batch is in flight to lost workers"

    def _obey(self, effect: Effect, now_s: float) -> None:
        match effect:
            case SubmitBatch():
                self._submit(effect, now_s)
            case InferenceCompleted(request_id=request_id):
                self._ledger.end(request_id, None, is_over=False)
            case InferenceFailed(request_id=request_id, error=error):
                self._ledger.end(request_id, error, is_over=self.is_over())
            case StopWorkers() | StartWorkers() | GiveUp() | ReportRecovery() | ReportSpeed():
                self.carry_out(effect, now_s)
            case _:
                assert_never(effect)

    def _submit(self, batch: SubmitBatch, now_s: float) -> None:
        """Send a batch, and let it break its workers if it contains poison."""
        others = [one for one in self._in_flight.values() if one.replica == batch.replica]
        self._ledger.check_sent(self._scheduler, batch, others)
        self._in_flight[batch.batch_id] = batch
        self._num_batches += 1
        poisons = {self._requests[part.request_id].poison for part in batch.parts if part.first_row == 0}
        for poison in poisons & {"crashes", "hangs"}:
            self.break_workers(
                batch.replica, now_s, hangs=poison == "hangs", is_crash=True, noticed_after_s=_POISON_NOTICED_S
            )
        num_rows = self._scenario.axes.rows or batch.num_rows
        work = SimulatedBatch(
            batch_id=batch.batch_id,
            num_elements=num_rows * self._requests[batch.parts[0].request_id].row_cost,
            is_refused="refused" in poisons,
        )
        self.send(batch.replica, work, now_s)

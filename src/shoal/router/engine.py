"""The shell around a language model's decisions: it owns all workers, and moves events in and effects out.

Single-threaded: one thread calls all methods; only `wake` may be called from another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import assert_never

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import GiveUp, ReportRecovery, ReportSpeed, StartWorkers, StopWorkers, Tick
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.speed.routing import Routing
from shoal.errors import WorkerLost
from shoal.protocol.language_messages import StepResult
from shoal.protocol.worker_messages import Generation
from shoal.router.engine_stats import EngineStats, take_stats
from shoal.router.executor import StepExecutor, StepReplicaFactory
from shoal.router.replica_owner import ReplicaOwner
from shoal.router.story.fleet_story import FleetStory
from shoal.router.story.request_traces import RequestTrace, RequestTraces
from shoal.router.worker_set import Answered, WorkerSet

__all__ = ["Engine", "EngineStats"]

_MAX_TURN_S = 60.0


class Engine(ReplicaOwner[StepWork, StepResult, SchedulerConfig]):
    """Runs requests on replicas. `clock` gives seconds, monotonic."""

    def __init__(
        self,
        replicas: Sequence[tuple[SchedulerConfig, StepExecutor]],
        clock: Callable[[], float],
        *,
        factories: Sequence[StepReplicaFactory] = (),
        row_s: Sequence[float] = (),
        recovery: RecoveryConfig | None = None,
        routing: Routing = "earliest-finish",
    ) -> None:
        """Take over the executors.

        Args:
            replicas: limits and loaded workers of each replica, at least one.
            clock: gives monotonic seconds.
            factories: start workers again, one for each replica; empty: a lost replica stays lost.
            row_s: seconds that the workers of each replica took for a single row; empty: not known.
            recovery: when workers count as lost and how they are restarted; None: the defaults.
            routing: the rule that chooses a request's replica.
        """
        recovery = recovery or RecoveryConfig()
        if not factories:
            recovery = recovery.without_restart()
        self._fleet = ReplicaFleet([config for config, _ in replicas], recovery, row_s, routing=routing)
        self._clock = clock
        super().__init__(WorkerSet([executor for _, executor in replicas], factories, clock))
        self._story = FleetStory(self._fleet, self._workers.log)
        self._traces: RequestTraces | None = None

    def trace(self, on_end: Callable[[RequestTrace], None]) -> None:
        """Trace every request from now on. `on_end`: called in the engine's thread with each one that has ended."""
        self._traces = RequestTraces(self._fleet, on_end)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self._fleet.has_work

    def add(self, request: Request) -> None:
        """Give a request to the replica that is expected to finish it first.

        Raises:
            InvalidRequest: the request is invalid.
            CapacityError: the request can never fit into the KV memory, or no replica is left.
        """
        self._fleet.check(request)
        self._tell(RequestAdded(request=request), [])

    def cancel(self, request_id: RequestId) -> None:
        """Stop a request; its RequestFinished follows. Unknown and finished ids are ignored."""
        self._tell(RequestCancelled(request_id=request_id), [])

    def turn(self, timeout_s: float) -> list[Output]:
        """Do one turn: send what can be sent, wait at most timeout_s for results, and take them in.

        Raises:
            WorkerLost: all replicas are given up.
        """
        outputs = self._advance()
        if self._fleet.death is None:
            self._workers.wait(0.0 if outputs else timeout_s, self._fleet.wake_s())
            self._collect(outputs)
            outputs += self._advance()
        if self._fleet.death is not None and not outputs:
            raise WorkerLost(self._fleet.death)
        self._call_watchers()
        return outputs

    def run(self, requests: Iterable[Request]) -> Iterator[Output]:
        """Add requests and yield their outputs until all have finished."""
        for request in requests:
            self.add(request)
        while self.has_work:
            yield from self.turn(_MAX_TURN_S)

    def stats(self) -> EngineStats:
        """A snapshot for metrics."""
        return take_stats(self._fleet, self._workers.pids)

    def _generation_of(self, index: int) -> Generation:
        return self._fleet.replicas[index].scheduler.generation

    def _advance(self) -> list[Output]:
        """Let the fleet decide about all events so far, and carry out its effects."""
        outputs: list[Output] = []
        self._tell(Tick(heard_s=self._workers.heard_s), outputs)
        while news := self._workers.take_news():
            for event in news:
                self._tell(event, outputs)
            self._tell(Tick(heard_s=self._workers.heard_s), outputs)
        return outputs

    def _collect(self, outputs: list[Output]) -> None:
        """Pass the workers' messages on to the fleet."""
        for event in self._workers.collect():
            if isinstance(event, Answered):
                self._tell(StepAnswered(replica=event.replica, result=event.result), outputs)
            else:
                self._tell(event, outputs)

    def _tell(self, event: FleetEvent, outputs: list[Output]) -> None:
        now_s = self._clock()
        effects = self._fleet.handle(event, now_s)
        self._story.note(event, effects, now_s)
        if self._traces is not None:
            self._traces.note(event, effects, now_s)
        for effect in effects:
            self._carry_out(effect, outputs)
        self._story.note_moves(event, effects, now_s)

    def _carry_out(self, effect: FleetEffect, outputs: list[Output]) -> None:
        match effect:
            case SubmitStep(replica=index, work=work):
                self._workers.submit(index, work)
            case StopWorkers() | StartWorkers() | GiveUp() | ReportRecovery() | ReportSpeed():
                self._workers.carry_out(effect)
            case TokenProduced() | RequestFinished():
                outputs.append(effect)
            case _:
                assert_never(effect)

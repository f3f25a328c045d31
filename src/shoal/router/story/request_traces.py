"""Traces of a language model's requests: the time of waiting, of prompt and tokens, and of losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded
from shoal.core.recovery.events import ReplicaLost, StopWorkers
from shoal.core.sequences.request import RequestFinished, RequestId, TokenProduced
from shoal.protocol.language_messages import StepId

PhaseName = Literal["queue", "prefill", "decode", "recovery", "replay"]
"""`recovery`: its workers are lost and no others have continued it yet; `replay`: lost rows are computed again."""


@dataclass(slots=True)
class RequestPhase:
    """A phase of a request."""

    name: PhaseName
    begin_s: float
    """The beginning, on the engine's clock."""
    end_s: float = 0.0
    """The end, on the engine's clock; 0 while it lasts."""
    replica: int | None = None
    """The replica that computed it; None if none did."""
    num_steps: int = 0
    """Steps that were answered."""
    stage_compute_s: list[float] = field(default_factory=list[float])
    """Seconds that each stage computed for these steps, including rows of other requests."""


@dataclass(slots=True)
class RequestTrace:
    """A request from its arrival to its end."""

    request_id: RequestId
    phases: list[RequestPhase]
    """The phases in order; each begins when the one before ends."""
    finished: RequestFinished | None = None
    """The request's end; None while it lasts."""


class RequestTraces:
    """An observer of the engine that traces every request. Only the engine's thread may use it."""

    def __init__(self, fleet: ReplicaFleet, on_end: Callable[[RequestTrace], None]) -> None:
        """
        Args:
            fleet: the fleet, which is asked for the requests in a step.
            on_end: called with every request that has ended.
        """
        self._fleet = fleet
        self._on_end = on_end
        self._traces: dict[RequestId, RequestTrace] = {}
        self._steps: dict[tuple[int, StepId], list[RequestPhase]] = {}
        """The phases for which each step in flight computes."""

    def note(self, event: FleetEvent, effects: Sequence[FleetEffect], now_s: float) -> None:
        """Note an event and its effects."""
        match event:
            case RequestAdded(request=request):
                self._traces[request.request_id] = RequestTrace(request.request_id, [RequestPhase("queue", now_s)])
            case StepAnswered(replica=replica, result=result):
                for phase in self._steps.pop((replica, result.step_id), ()):
                    _count_step(phase, result.compute_s)
            case ReplicaLost(replica=replica):
                self._lose(replica, now_s)
            case _:
                pass
        for effect in effects:  # tokens come before the steps that they lead to, although these are sent first
            match effect:
                case TokenProduced(request_id=request_id):
                    self._produce(request_id, now_s)
                case RequestFinished():
                    self._finish(effect, now_s)
                case _:
                    pass
        for effect in effects:
            match effect:
                case SubmitStep(replica=replica, step=step):
                    self._submit(replica, step.step_id, now_s)
                case StopWorkers(replica=replica):
                    self._forget_steps(replica)
                case _:
                    pass

    def _submit(self, replica: int, step_id: StepId, now_s: float) -> None:
        step = self._fleet.replicas[replica].scheduler.state.in_flight.get(step_id)
        phases: list[RequestPhase] = []
        for chunk in () if step is None else step.chunks:
            trace = self._traces.get(chunk.sequence.request.request_id)
            if trace is None:
                continue
            if trace.phases[-1].name in ("queue", "recovery"):
                _turn(trace, "prefill" if len(trace.phases) == 1 else "replay", now_s)
            trace.phases[-1].replica = replica
            phases.append(trace.phases[-1])
        self._steps[replica, step_id] = phases

    def _produce(self, request_id: RequestId, now_s: float) -> None:
        trace = self._traces.get(request_id)
        if trace is not None and trace.phases[-1].name != "decode":
            _turn(trace, "decode", now_s)

    def _lose(self, replica: int, now_s: float) -> None:
        self._forget_steps(replica)
        for trace in self._traces.values():
            phase = trace.phases[-1]
            if phase.replica == replica and phase.name not in ("queue", "recovery"):
                _turn(trace, "recovery", now_s)

    def _forget_steps(self, replica: int) -> None:
        for key in [key for key in self._steps if key[0] == replica]:
            del self._steps[key]

    def _finish(self, finished: RequestFinished, now_s: float) -> None:
        trace = self._traces.pop(finished.request_id, None)
        if trace is not None:
            trace.finished, trace.phases[-1].end_s = finished, now_s
            self._on_end(trace)


def _turn(trace: RequestTrace, name: PhaseName, now_s: float) -> None:
    trace.phases[-1].end_s = now_s
    trace.phases.append(RequestPhase(name, now_s))


def _count_step(phase: RequestPhase, compute_s: Sequence[float]) -> None:
    phase.num_steps += 1
    if len(phase.stage_compute_s) < len(compute_s):  # a replica with a new plan may have more stages
        phase.stage_compute_s += [0.0] * (len(compute_s) - len(phase.stage_compute_s))
    for stage, seconds in enumerate(compute_s):
        phase.stage_compute_s[stage] += seconds

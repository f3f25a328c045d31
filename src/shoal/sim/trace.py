"""Texts for events and effects of a fleet, one line each."""

from __future__ import annotations

from typing import assert_never

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
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
from shoal.core.sequences.request import RequestFinished, TokenProduced


def describe(happened: FleetEvent | FleetEffect) -> str:
    """An event or effect in a few words."""
    match happened:
        case RequestAdded(request=request):
            return f"added {request.request_id}"
        case RequestCancelled(request_id=request_id):
            return f"cancelled {request_id}"
        case StepAnswered(replica=replica, result=result):
            tokens = [token.token_id for token in result.tokens]
            return f"replica {replica} answered {result.step_id}.{result.generation} {tokens}"
        case SubmitStep(replica=replica, step=step):
            rows = f"{step.num_tokens} rows of {step.num_sequences}"
            return f"replica {replica} step {step.step_id}.{step.generation} {rows}"
        case TokenProduced():
            return f"token {happened.request_id} {happened.token_id}"
        case RequestFinished():
            return f"finished {happened.request_id} {happened.reason}"
        case ReplicaLost(replica=replica, reason=reason) | StopWorkers(replica=replica, reason=reason):
            return f"{_name(happened)} {replica}: {reason}"
        case GiveUp(replica=replica, reason=reason):
            return f"{_name(happened)} {replica}: {reason}"
        case ReplicaReady() | WorkersProgressed() | ReportSpeed() | ReportRecovery():
            return f"{_name(happened)} {happened.replica}"
        case StartWorkers(replica=replica, generation=generation, without=without):
            return f"{_name(happened)} {replica}.{generation} without {without}"
        case ReplicaJoined():
            return _name(happened)
        case Tick():
            return "tick"
        case _:
            assert_never(happened)


def _name(happened: object) -> str:
    return type(happened).__name__

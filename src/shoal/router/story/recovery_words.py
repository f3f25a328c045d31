"""Events and effects of recovery in a few words, for stories."""

from __future__ import annotations

from typing import Any, assert_never

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
    WorkersProgressed,
)
from shoal.core.speed.slow_workers import describe

RecoveryEvent = WorkersProgressed | ReplicaReady[Any] | ReplicaJoined[Any] | ReplicaLost


def event_words(event: RecoveryEvent) -> str:
    """What has happened to workers."""
    match event:
        case WorkersProgressed(waiting_for=waiting_for):
            return f"workers load, waiting for {waiting_for}" if waiting_for else "workers load"
        case ReplicaReady():
            return "workers are ready"
        case ReplicaJoined():
            return "replica joined"
        case ReplicaLost(reason=reason):
            return f"workers lost: {reason}"
        case _:
            assert_never(event)


def effect_words(effect: RecoveryEffect) -> str:
    """What is done with workers."""
    match effect:
        case StopWorkers(reason=reason, keep=keep):
            return f"stop workers{', keep the living' if keep else ''}: {reason}"
        case StartWorkers(generation=generation, without=without):
            return f"start generation {generation}{'' if without is None else f' without worker {without}'}"
        case GiveUp(reason=reason):
            return f"give up: {reason}"
        case ReportRecovery(pause_s=pause_s):
            return "other workers serve" if pause_s is None else f"serves again after {pause_s:.1f} s"
        case ReportSpeed(change=change):
            return describe(change)
        case _:
            assert_never(effect)

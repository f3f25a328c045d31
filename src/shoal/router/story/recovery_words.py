"""Texts for events and effects of recovery, for stories."""

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
    """An event of workers in a few words."""
    match event:
        case WorkersProgressed(waiting_for=waiting_for):
            return f"workers are loading, waiting for {waiting_for}" if waiting_for else "workers are loading"
        case ReplicaReady():
            return "workers are ready"
        case ReplicaJoined():
            return "replica joined"
        case ReplicaLost(reason=reason):
            return f"workers lost: {reason}"
        case _:
            assert_never(event)


def effect_words(effect: RecoveryEffect) -> str:
    """An effect on workers in a few words."""
    match effect:
        case StopWorkers(reason=reason, keep=keep):
            return f"stop workers{', keep survivors' if keep else ''}: {reason}"
        case StartWorkers(generation=generation, without=without):
            return f"start generation {generation}{'' if without is None else f' without worker {without}'}"
        case GiveUp(reason=reason):
            return f"give up: {reason}"
        case ReportRecovery(pause_s=pause_s):
            return "new workers serve" if pause_s is None else f"serves again after {pause_s:.1f} s"
        case ReportSpeed(change=change):
            return describe(change)
        case _:
            assert_never(effect)

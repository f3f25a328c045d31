"""Events that a fleet of language-model replicas takes in, and effects that it returns."""

from __future__ import annotations

import msgspec

from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.recovery.events import (
    RecoveryEffect,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    Tick,
    WorkersProgressed,
)
from shoal.core.sequences.request import Output
from shoal.protocol.language_messages import Step, StepResult


class StepAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's workers have answered a step."""

    replica: int
    result: StepResult


FleetEvent = (
    RequestAdded
    | RequestCancelled
    | StepAnswered
    | WorkersProgressed
    | ReplicaReady[SchedulerConfig]
    | ReplicaJoined[SchedulerConfig]
    | ReplicaLost
    | Tick
)


class SubmitStep(msgspec.Struct, frozen=True, kw_only=True):
    """Send this step to every worker of the replica."""

    replica: int
    work: StepWork

    @property
    def step(self) -> Step:
        return self.work.step


FleetEffect = SubmitStep | RecoveryEffect | Output

"""What happens to a model's replicas (events) and what the fleet wants done (effects)."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.sequences.request import Output
from shoal.core.speed.slow_workers import SpeedEvent
from shoal.protocol.messages import Generation, Step, StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswered:
    """A replica's workers have answered a step."""

    replica: int
    result: StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersProgressed:
    """Workers that are being started have shown a sign of life, or have just been started."""

    replica: int
    silent: int | None = None
    """the worker, stage by stage and rank by rank, that all others wait for; None: several are not ready"""
    waiting_for: str = ""
    """workers that are not ready, for messages; empty: not told"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReady:
    """A replica has new workers, with empty KV memory: instead of lost ones, or of running ones, which end."""

    replica: int
    config: SchedulerConfig
    """what these workers may use"""
    row_s: float = 0.0
    """seconds that they took for a single row; 0: not known"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaJoined:
    """One more replica has workers. Its index is the number of replicas before it."""

    config: SchedulerConfig
    """what these workers may use"""
    row_s: float = 0.0
    """seconds that they took for a single row; 0: not known"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLost:
    """A worker of a replica is gone, while it worked or while it was being started."""

    replica: int
    reason: str
    worker: int | None = None
    """which, stage by stage, rank by rank; None: not known"""
    is_final: bool = False
    """whether others that are started instead would fail alike"""
    is_crash: bool = False
    """whether it is gone of what it was computing, as far as can be seen"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed, or everything has been told that is known by now."""


FleetEvent = (
    RequestAdded
    | RequestCancelled
    | StepAnswered
    | WorkersProgressed
    | ReplicaReady
    | ReplicaJoined
    | ReplicaLost
    | Tick
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitStep:
    """Send this step to every worker of the replica."""

    replica: int
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorkers:
    """The replica's workers are lost: nothing that they still say is to be told."""

    replica: int
    reason: str
    keep: bool
    """the living may be used again by `StartWorkers` or end with `GiveUp`, which follows; else all end now"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorkers:
    """Start the replica's workers; `ReplicaReady` or `ReplicaLost` is to follow."""

    replica: int
    generation: Generation
    without: int | None
    """a worker that cannot be restarted: plan the replica anew without it, if that can be done"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """This replica is not started again; what is left of its workers ends."""

    replica: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSpeed:
    """Tell whoever watches that a worker has slowed down, or recovered."""

    replica: int
    change: SpeedEvent


FleetEffect = SubmitStep | StopWorkers | StartWorkers | GiveUp | ReportSpeed | Output

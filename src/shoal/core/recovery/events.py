"""What happens to the workers of a model's replicas (events) and what is to be done with them (effects).

They are the same whatever the work is: steps of a language model or batches of an ONNX graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from shoal.core.speed.slow_workers import SpeedEvent
from shoal.protocol.worker_messages import Generation

LimitsT = TypeVar("LimitsT")
"""What a scheduler may ask of a replica's workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersProgressed:
    """Workers that are being started have shown a sign of life, or have just been started."""

    replica: int
    silent: int | None = None
    """the worker, stage by stage and rank by rank, that all others wait for; None: several are not ready"""
    waiting_for: str = ""
    """workers that are not ready, for messages; empty: not told"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReady(Generic[LimitsT]):
    """A replica has new workers: instead of lost ones, or of running ones, which end."""

    replica: int
    limits: LimitsT
    """what these workers may be asked"""
    row_s: float = 0.0
    """seconds that they took for a single row; 0: not known"""
    is_replacement: bool = False
    """whether somebody else asked for them; they come in the place of those that recovery may just be starting, too"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaJoined(Generic[LimitsT]):
    """One more replica has workers. Its index is the number of replicas before it."""

    limits: LimitsT
    """what these workers may be asked"""
    row_s: float = 0.0
    """seconds that they took for a single row; 0: not known"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLost:
    """A worker of a replica is gone, while it worked or while it was being started."""

    replica: int
    reason: str
    """one line"""
    worker: int | None = None
    """which, stage by stage, rank by rank; None: not known"""
    keep: bool = True
    """whether those of its workers that live can be trusted and used again"""
    is_final: bool = False
    """whether others that are started instead would fail alike"""
    is_crash: bool = False
    """whether it is gone of what it was computing, as far as can be seen"""
    is_unreachable: bool = False
    """whether its machine takes no connections, so that it cannot be started there for now"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed, or everything has been told that is known by now."""

    heard_s: float | None = None
    """until when all that workers have said has been told: they may have said more since; None: until now"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorkers:
    """The replica's workers are lost: nothing that they still say is to be told."""

    replica: int
    reason: str
    """one line"""
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
    """one line"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecovery:
    """Tell whoever watches that a replica has workers again, or others than before."""

    replica: int
    pause_s: float | None
    """for how long it had none; None: others have taken the place of running ones"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSpeed:
    """Tell whoever watches that a worker has slowed down, or recovered."""

    replica: int
    change: SpeedEvent


RecoveryEffect = StopWorkers | StartWorkers | GiveUp | ReportRecovery | ReportSpeed

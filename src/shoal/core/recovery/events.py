"""Events about the workers of a model's replicas, and effects that recovery returns.

They are the same for all kinds of work: steps of a language model and batches of an ONNX graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from shoal.core.speed.slow_workers import SpeedEvent
from shoal.protocol.worker_messages import Generation

LimitsT = TypeVar("LimitsT")
"""The type of the limits of a replica's workers, which depends on the kind of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersProgressed:
    """Starting workers have shown a sign of life, or have just been started."""

    replica: int
    silent: int | None = None
    """The only worker that is not ready, counted stage by stage and rank by rank; None: several are not ready."""
    waiting_for: str = ""
    """The workers that are not ready, for messages; empty: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReady(Generic[LimitsT]):
    """A replica has new workers in place of lost ones, or of running ones, which end."""

    replica: int
    limits: LimitsT
    """The limits of these workers."""
    row_s: float = 0.0
    """Seconds that they took for a single row; 0: not known."""
    is_replacement: bool = False
    """Whether they were started by a change of the plan, not by recovery; they also replace workers that recovery may
    be starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaJoined(Generic[LimitsT]):
    """A new replica has workers. Its index is the number of replicas so far."""

    limits: LimitsT
    """The limits of these workers."""
    row_s: float = 0.0
    """Seconds that they took for a single row; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLost:
    """A worker of a replica is lost, while it worked or while it was being started."""

    replica: int
    reason: str
    """The cause, in one line."""
    worker: int | None = None
    """The lost worker, counted stage by stage and rank by rank; None: not known."""
    keep: bool = True
    """Whether the replica's surviving workers can be used again."""
    is_final: bool = False
    """Whether new workers would fail in the same way."""
    is_crash: bool = False
    """Whether it appears to have crashed on what it was computing."""
    is_unreachable: bool = False
    """Whether its machine accepts no connections, so that it cannot be started there for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed, or all events known by now have been passed on."""

    heard_s: float | None = None
    """All messages of workers up to this time have been passed on; None: up to now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorkers:
    """Stop the replica's workers, which are lost, and ignore all their further messages."""

    replica: int
    reason: str
    """The cause, in one line."""
    keep: bool
    """Whether survivors are kept for the `StartWorkers` or `GiveUp` that follows; otherwise all end now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorkers:
    """Start the replica's workers; `ReplicaReady` or `ReplicaLost` must follow."""

    replica: int
    generation: Generation
    without: int | None
    """A worker that cannot be restarted: plan the replica again without it, if possible. None: start all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Do not start this replica again, and end its surviving workers."""

    replica: int
    reason: str
    """The cause, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecovery:
    """Report that a replica has workers again, or new ones."""

    replica: int
    pause_s: float | None
    """Seconds for which it had none; None: the new ones have replaced running ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSpeed:
    """Report that a worker has slowed down, or recovered."""

    replica: int
    change: SpeedEvent


RecoveryEffect = StopWorkers | StartWorkers | GiveUp | ReportRecovery | ReportSpeed

"""Faults of a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.sequences.request import RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A worker of a replica dies, whether it works, is idle, or is being started."""

    at_s: float
    replica: int
    noticed_after_s: float
    """Seconds until the broken link is seen; steps sent until then are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """A worker stops where it is; its links stay open."""

    at_s: float
    replica: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """The present workers of a replica take several times as long from now on."""

    at_s: float
    replica: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """New workers with so many stages are started for a replica, to replace the present ones."""

    at_s: float
    replica: int
    load_s: float
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaJoins:
    """A new replica joins, with workers like those of another one. Not a fault, but a similar change."""

    at_s: float
    replica: int
    """The other replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """The machine of one worker disappears silently, as with a pulled cable, and returns later."""

    at_s: float
    replica: int
    worker: int
    back_at_s: float


Fault = Crash | Hang | Slowdown | Replacement | ReplicaJoins | Absence


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """A request that breaks every worker that computes its row `row`."""

    request_id: RequestId
    row: int
    hangs: bool
    """Whether workers hang instead of dying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What links do to results."""

    repeat_probability: float
    """The probability that a result arrives twice."""
    drop_probability: float
    """The probability that a result never arrives."""
    delay_s: float
    """The longest delay of a result; results stay in order."""
    late_probability: float
    """The probability that a result arrives although its workers were stopped meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """How long workers take to start, and how often that fails."""

    shortest_s: float
    longest_s: float
    failure_probability: float
    """The probability that workers die while they start."""

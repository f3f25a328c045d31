"""What goes wrong in a simulated day."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.sequences.request import RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A worker of a replica dies, whatever it does: works, is idle, or is being started."""

    at_s: float
    replica: int
    noticed_after_s: float
    """when the broken link is seen; steps sent until then go nowhere"""


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
    """Somebody has other workers started for a replica, in so many stages, to put them in the place of the present."""

    at_s: float
    replica: int
    load_s: float
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaJoins:
    """One more replica has loaded, its workers being alike those of another. No fault, but a change like one."""

    at_s: float
    replica: int
    """the other"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """The machine of one worker of a replica leaves without a word, as with a pulled cable, and comes back later."""

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
    """workers stop instead of dying"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What links do to results."""

    repeat_probability: float
    """of a result arriving twice"""
    drop_probability: float
    """of a result never arriving"""
    delay_s: float
    """at most, for each; they stay in order"""
    late_probability: float
    """of a result arriving although its workers were stopped meanwhile"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """How long workers take to start, and how often that fails."""

    shortest_s: float
    longest_s: float
    failure_probability: float
    """of dying on the way"""

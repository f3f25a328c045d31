"""The pause that a loss causes: predicted from earlier losses, and measured from the clients' arrival times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from shoal.bench.drill.targets import DrillTarget
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import ConfigError
from shoal.executor.remote.strikes import StrikeKind
from shoal.planner.predict.load_seconds import load_seconds

_NOTICED_S = 0.003
"""Seconds until a dead worker's broken link is noticed."""
_AGENT_START_S = 3.0
"""Seconds until Ray has restarted a machine's agent. Source: benchmarks/drill.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTimes:
    """Timeouts of the server and the drill."""

    patience_s: float
    """Seconds of silence after which workers count as lost."""
    cable_s: float
    """Seconds for which a cable is pulled."""


def drill_times(worker_timeout_s: float | None, cable_s: float | None) -> DrillTimes:
    """The times from the command line; None: the default. Raises ConfigError if a pulled cable would not be noticed."""
    patience_s = RecoveryConfig().worker_timeout_s if worker_timeout_s is None else worker_timeout_s
    cable_s = 2.0 * patience_s + 1.0 if cable_s is None else cable_s
    if cable_s <= patience_s:
        raise ConfigError(
            f"a cable that is pulled for {cable_s:g} s is back before the server notices, after {patience_s:g} s: "
            "give a longer --cable"
        )
    return DrillTimes(patience_s=patience_s, cable_s=cable_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPace:
    """The pace of the drill's clients while nothing is wrong."""

    gap_s: float
    """Median seconds between two tokens of a stream, or two answers of a graph."""
    again_s: float
    """Seconds to recompute one prompt token, or one request of a graph."""


@dataclass(slots=True, kw_only=True)
class SeenPauses:
    """The restart times of this drill so far: seconds from noticing a loss until replicas have workers again."""

    restarts_s: dict[tuple[StrikeKind, bool], list[float]] = field(
        default_factory=dict[tuple[StrikeKind, bool], list[float]]
    )
    """Restart times by kind of strike and whether a whole machine was lost."""
    ratios: list[float] = field(default_factory=list[float])
    """Ratios of all restart times to `usual_restart_s`, as this server's machines may be slower or busier."""

    def restart_s(self, how: StrikeKind, target: DrillTarget, times: DrillTimes) -> float:
        """The expected restart time: the median of earlier ones, or the usual one scaled by the median ratio."""
        if seen := self.restarts_s.get((how, target.worker is None)):
            return median(seen)
        return usual_restart_s(how, target, times) * (median(self.ratios) if self.ratios else 1.0)

    def note(self, how: StrikeKind, target: DrillTarget, times: DrillTimes, restart_s: float) -> None:
        """Note a restart time after replicas have workers again."""
        self.restarts_s.setdefault((how, target.worker is None), []).append(restart_s)
        self.ratios.append(restart_s / usual_restart_s(how, target, times))


def usual_restart_s(how: StrikeKind, target: DrillTarget, times: DrillTimes) -> float:
    """Expected seconds until a replica has workers again, before anything is known about the server.

    A killed worker is replaced alone. If one hangs, all workers of its replica are replaced. Workers of an unreachable
    machine are moved to others; if there are none, the replica waits for the machine.
    """
    is_forked = target.machine is None
    if how == "kill":
        agent_s = _AGENT_START_S if target.worker is None else 0.0
        return load_seconds(target.weight_bytes, is_forked=is_forked) + agent_s
    if how == "stop":
        return load_seconds(target.replica_weight_bytes, is_forked=is_forked)
    if target.reduced_weight_bytes is None:
        return times.cable_s - times.patience_s + load_seconds(target.replica_weight_bytes)
    return load_seconds(target.reduced_weight_bytes)


def predict_pause(
    target: DrillTarget, how: StrikeKind, pace: ClientPace, seen: SeenPauses, times: DrillTimes, *, again: float
) -> float:
    """Predict the seconds for which the slowest client waits for its next token or answer.

    The loss must be noticed. Then requests are recomputed from their prompts and the tokens so far, at once on another
    replica, or on this one after its restart.

    Args:
        target: the lost worker or machine.
        how: the kind of strike.
        pace: the pace of the clients before.
        seen: the restart times of earlier losses.
        times: the timeouts of the server and the drill.
        again: the amount of recomputation: prompt and output tokens so far of the replicas' streams; 1 for a graph.
    """
    noticed_s = _NOTICED_S if how == "kill" else times.patience_s
    restart_s = 0.0 if target.has_others else seen.restart_s(how, target, times)
    return noticed_s + restart_s + again * pace.again_s + pace.gap_s


def seen_pause(clients: Sequence[Sequence[float]], struck_s: float) -> float:
    """The longest wait for the next token or answer over all clients with a request in flight.

    Args:
        clients: arrival times of the tokens of each stream, or of the answers of each client.
        struck_s: the time of the strike.
    """
    gaps = [
        later - earlier
        for times in clients
        if times and times[0] <= struck_s < times[-1]
        for earlier, later in pairwise(times)
        if later > struck_s
    ]
    return max(gaps, default=0.0)

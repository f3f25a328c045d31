"""The pause that a loss causes: foretold from what was seen so far, and read off the clients that met it."""

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
"""Until a dead worker's link is seen to be broken."""
_AGENT_START_S = 3.0
"""Until Ray has started a machine's agent again. Source: benchmarks/drill.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTimes:
    """The times that the server and the drill keep to."""

    patience_s: float
    """silence after which workers count as lost"""
    cable_s: float
    """for how long a cable is pulled"""


def drill_times(worker_timeout_s: float | None, cable_s: float | None) -> DrillTimes:
    """What the command line says of them; None: the defaults. Raises ConfigError: no pulled cable would be noticed."""
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
    """The pace of the drill's own clients while nothing is wrong."""

    gap_s: float
    """between two tokens of a stream, or two answers of a graph, the median"""
    again_s: float
    """of computing anew one prompt token, or one request of a graph"""


@dataclass(slots=True, kw_only=True)
class SeenPauses:
    """What this drill has learned so far: for how long replicas had no workers once that was noticed."""

    restarts_s: dict[tuple[StrikeKind, bool], list[float]] = field(
        default_factory=dict[tuple[StrikeKind, bool], list[float]]
    )
    """by how it was done, and whether to a machine"""
    ratios: list[float] = field(default_factory=list[float])
    """all of them over `usual_restart_s`: this server's machines may be slower than others, or busier"""

    def restart_s(self, how: StrikeKind, target: DrillTarget, times: DrillTimes) -> float:
        """Expected: as it took before, or as is usual, as much slower as everything was here."""
        if seen := self.restarts_s.get((how, target.worker is None)):
            return median(seen)
        return usual_restart_s(how, target, times) * (median(self.ratios) if self.ratios else 1.0)

    def note(self, how: StrikeKind, target: DrillTarget, times: DrillTimes, restart_s: float) -> None:
        """Replicas have workers again."""
        self.restarts_s.setdefault((how, target.worker is None), []).append(restart_s)
        self.ratios.append(restart_s / usual_restart_s(how, target, times))


def usual_restart_s(how: StrikeKind, target: DrillTarget, times: DrillTimes) -> float:
    """Seconds until there are workers again, where nothing is known of the server.

    A killed worker is replaced alone; of a hung one's replica nobody is trusted again; a machine that cannot be reached
    is done without, or waited for where there is no other.
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
    """Seconds for which the slowest client waits for its next token or answer.

    It is noticed that workers are gone; then requests are computed again from their prompts and the tokens so far,
    elsewhere at once, or here when there are workers again.

    Args:
        target: what is taken away.
        how: in which way.
        pace: of the clients before.
        seen: what was learned from earlier losses.
        times: that the server and the drill keep to.
        again: how much is computed again: tokens, prompts and outputs so far of the replicas' streams; of a graph 1.
    """
    noticed_s = _NOTICED_S if how == "kill" else times.patience_s
    restart_s = 0.0 if target.has_others else seen.restart_s(how, target, times)
    return noticed_s + restart_s + again * pace.again_s + pace.gap_s


def seen_pause(clients: Sequence[Sequence[float]], struck_s: float) -> float:
    """The longest wait for the next token or answer of any client that was under way.

    Args:
        clients: times at which the tokens of each stream came, or the answers of each client.
        struck_s: when the worker was taken away.
    """
    gaps = [
        later - earlier
        for times in clients
        if times and times[0] <= struck_s < times[-1]
        for earlier, later in pairwise(times)
        if later > struck_s
    ]
    return max(gaps, default=0.0)

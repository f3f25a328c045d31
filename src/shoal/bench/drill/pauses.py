"""The pause that losing a worker causes: foretold from what was seen so far, and read off the streams that met it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Literal

from shoal.core.recovery.config import RecoveryConfig
from shoal.planner.predict.load_seconds import load_seconds

Strike = Literal["kill", "stop"]
STRIKES: tuple[Strike, ...] = ("kill", "stop")
_NOTICED_S = 0.003
"""Until a dead worker's link is seen to be broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTarget:
    """One worker of a server."""

    model: str
    replica: int
    worker: int
    """stage by stage, rank by rank"""
    machine: str | None
    """None: the server's own"""
    weight_bytes: int
    replica_weight_bytes: int
    """of all workers of its replica"""
    has_others: bool
    """whether another replica serves, to which requests can go"""

    @property
    def name(self) -> str:
        """The worker's name, by the numbers that `/status` gives."""
        return f"replica {self.replica} worker {self.worker}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPace:
    """The pace of the drill's own streams while nothing is wrong."""

    token_gap_s: float
    """between two tokens of a stream, the median"""
    prompt_token_s: float
    """of reading a prompt, for each of its tokens"""


@dataclass(slots=True, kw_only=True)
class SeenPauses:
    """What this drill has learned so far."""

    restarts_s: dict[Strike, list[float]] = field(default_factory=dict[Strike, list[float]])
    """by how workers were taken: for how long their replica had none, silence before it was noticed excluded"""

    def restart_s(self, how: Strike, target: DrillTarget) -> float:
        """Expected. A killed worker is replaced alone; of a hung one's replica nobody is trusted again."""
        if seen := self.restarts_s.get(how):
            return median(seen)
        return load_seconds(target.weight_bytes if how == "kill" else target.replica_weight_bytes)

    def note(self, how: Strike, restart_s: float) -> None:
        """A replica has workers again."""
        self.restarts_s.setdefault(how, []).append(restart_s)


def predict_pause(
    target: DrillTarget,
    how: Strike,
    pace: StreamPace,
    seen: SeenPauses,
    *,
    known_tokens: float,
    worker_timeout_s: float | None = None,
) -> float:
    """Seconds that the slowest stream of the replica waits for its next token.

    It is noticed that the worker is gone; then the request is computed again from its prompt and the tokens so far,
    elsewhere at once, or here when the workers are back.

    Args:
        target: the worker.
        how: kill: it is gone; stop: it hangs.
        pace: of the streams before.
        seen: what was learned from earlier losses.
        known_tokens: prompts and outputs so far of the replica's streams, all of which are computed again.
        worker_timeout_s: the server's patience; None: the default.
    """
    patience_s = RecoveryConfig().worker_timeout_s if worker_timeout_s is None else worker_timeout_s
    noticed_s = _NOTICED_S if how == "kill" else patience_s
    restart_s = 0.0 if target.has_others else seen.restart_s(how, target)
    return noticed_s + restart_s + known_tokens * pace.prompt_token_s + pace.token_gap_s


def seen_pause(streams: Sequence[Sequence[float]], struck_s: float) -> float:
    """The longest wait for the next token of any stream that was under way.

    Args:
        streams: times at which the tokens of each came.
        struck_s: when the worker was taken away.
    """
    gaps = [
        later - earlier
        for times in streams
        if times and times[0] <= struck_s < times[-1]
        for earlier, later in pairwise(times)
        if later > struck_s
    ]
    return max(gaps, default=0.0)


def targets_of(models: Sequence[Mapping[str, object]], *, every: bool) -> list[DrillTarget]:
    """Workers to take away: of each replica the first, or every one. `models`: from `/status`."""
    found: list[DrillTarget] = []
    for model in models:
        plan, replicas = model["plan"], model["replicas"]
        assert isinstance(plan, dict)
        assert isinstance(replicas, list)
        for replica in range(len(replicas)):
            own = [one for one in plan["workers"] if one["replica"] == replica]
            found += [
                DrillTarget(
                    model=str(model["name"]),
                    replica=replica,
                    worker=index,
                    machine=one.get("machine"),
                    weight_bytes=one["weight_bytes"],
                    replica_weight_bytes=max(each["weight_bytes"] for each in own),
                    has_others=len(replicas) > 1,
                )
                for index, one in enumerate(own[: None if every else 1])
            ]
    return found

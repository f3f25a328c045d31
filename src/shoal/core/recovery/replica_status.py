"""What a status answer says of a model's replicas, whatever their work is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shoal.core.recovery.worker_life import Phase


class ReplicaStats(Protocol):
    """A snapshot of the replicas."""

    @property
    def phases(self) -> Sequence[Phase]:
        """Of each replica's workers."""
        ...

    @property
    def reduced(self) -> Sequence[bool]:
        """For each replica, whether it does without a worker that could not be started again."""
        ...

    @property
    def stage_s(self) -> Sequence[Sequence[float]]:
        """For each stage of each replica, mean seconds of its latest steps or batches; 0 before the first."""
        ...

    @property
    def slowdowns(self) -> Sequence[Sequence[float]]:
        """For each stage of each replica, how many times as long as expected its latest work took."""
        ...


def describe_replicas(stats: ReplicaStats) -> list[dict[str, Any]]:
    """As plain data, one a replica."""
    of_replicas = zip(stats.phases, stats.reduced, stats.stage_s, stats.slowdowns, strict=True)
    return [
        {
            "state": phase.word,
            "is_reduced": is_reduced,
            "stages": [
                {"step_s": step_s, "slowdown": slowdown} for step_s, slowdown in zip(stage_s, slowdowns, strict=True)
            ],
        }
        for phase, is_reduced, stage_s, slowdowns in of_replicas
    ]

"""What a status answer says of a model's replicas, whatever their work is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.core.recovery.worker_life import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaWork:
    """What one replica has to do now, and what its present workers have done."""

    num_running: int
    """requests; of a graph, rows that its workers have"""
    num_waiting: int
    """requests that wait for this replica; of a graph 0, for all replicas share one queue"""
    kv_usage: float | None
    """share of its KV blocks in use, 0 to 1; None: it has none"""
    busy_s: tuple[float, ...]
    """for each stage, seconds that it has computed, as far as its answers have come"""
    pids: tuple[int, ...] = ()
    """process ids of its workers, stage by stage and rank by rank, on their machines; empty: it has none of its own"""


class WorkerStates(Protocol):
    """A snapshot of the replicas' workers."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The phase that each replica's workers are in."""
        ...

    @property
    def reduced(self) -> Sequence[bool]:
        """For each replica, whether it does without a worker that could not be started again."""
        ...


class ReplicaStats(WorkerStates, Protocol):
    """A snapshot of the replicas."""

    @property
    def stage_s(self) -> Sequence[Sequence[float]]:
        """For each stage of each replica, mean seconds of its latest steps or batches; 0 before the first."""
        ...

    @property
    def slowdowns(self) -> Sequence[Sequence[float]]:
        """For each stage of each replica, how many times as long as expected its latest work took."""
        ...

    @property
    def work(self) -> Sequence[ReplicaWork]:
        """Of each replica."""
        ...


def describe_replicas(stats: ReplicaStats) -> list[dict[str, Any]]:
    """As plain data, one a replica."""
    of_replicas = zip(stats.phases, stats.reduced, stats.stage_s, stats.slowdowns, stats.work, strict=True)
    return [
        {
            "state": phase.word,
            "is_reduced": is_reduced,
            "running": work.num_running,
            "waiting": work.num_waiting,
            "kv_usage": work.kv_usage,
            "pids": work.pids,
            "stages": [
                {"step_s": step_s, "slowdown": slowdown, "busy_s": busy_s}
                for step_s, slowdown, busy_s in zip(stage_s, slowdowns, work.busy_s, strict=True)
            ],
        }
        for phase, is_reduced, stage_s, slowdowns, work in of_replicas
    ]

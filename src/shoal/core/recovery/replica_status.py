"""The status of a model's replicas, for all kinds of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.core.recovery.worker_life import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaWork:
    """One replica's present work, and what its present workers have done."""

    num_running: int
    """Running requests; for a graph, rows in flight."""
    num_waiting: int
    """Requests that wait for this replica; 0 for a graph, whose replicas share one queue."""
    kv_usage: float | None
    """The share of its KV blocks in use, 0 to 1; None: it has no KV blocks."""
    busy_s: tuple[float, ...]
    """Seconds that each stage has computed, according to its answers."""
    pids: tuple[int, ...] = ()
    """Process ids of its workers on their machines, stage by stage and rank by rank; empty: it has no processes."""


class WorkerStates(Protocol):
    """A snapshot of the replicas' workers."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The phase of each replica's workers."""
        ...

    @property
    def reduced(self) -> Sequence[bool]:
        """Whether each replica runs without a worker that could not be restarted."""
        ...


class ReplicaStats(WorkerStates, Protocol):
    """A snapshot of the replicas."""

    @property
    def stage_s(self) -> Sequence[Sequence[float]]:
        """Mean seconds of the latest steps or batches, for each stage of each replica; 0 before the first."""
        ...

    @property
    def slowdowns(self) -> Sequence[Sequence[float]]:
        """Observed over expected seconds of the latest work, for each stage of each replica."""
        ...

    @property
    def work(self) -> Sequence[ReplicaWork]:
        """The work of each replica."""
        ...


def describe_replicas(stats: ReplicaStats) -> list[dict[str, Any]]:
    """The status as plain data, one dictionary for each replica."""
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

"""Where a worker runs: what plans for every kind of model have in common. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlacement:
    """The machine that a worker runs on, and how much of it the worker may use."""

    threads: int
    """compute threads of this worker"""
    cores: tuple[int, ...]
    """CPU ids the worker is pinned to; empty: not pinned"""
    cpu_quota: float | None = None
    """share of its cores' time that the worker is held to; None: all"""
    machine: str | None = None
    """name of the machine that the worker is planned for; None: this one"""


def placement_of(worker: WorkerPlacement) -> WorkerPlacement:
    """The placement alone of a worker that also holds something."""
    return WorkerPlacement(
        threads=worker.threads, cores=worker.cores, cpu_quota=worker.cpu_quota, machine=worker.machine
    )

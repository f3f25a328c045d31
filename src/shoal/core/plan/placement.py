"""Where a worker runs: what plans for every kind of model have in common. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from shoal.protocol.device_config import DeviceConfig


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
    device: DeviceConfig | None = None
    """what the worker computes on; None: the processor"""
    python: str | None = None
    """path of the Python that runs the worker; None: the one that runs the head"""

    def placement(self) -> dict[str, Any]:
        """Where it runs, as arguments of another worker that is to sit in the same place."""
        return {field.name: getattr(self, field.name) for field in fields(WorkerPlacement)}

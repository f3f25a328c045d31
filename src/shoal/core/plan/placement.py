"""Where a worker runs: the part that plans of all kinds of models share. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from shoal.protocol.device_config import DeviceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlacement:
    """The machine that a worker runs on, and how much of it the worker may use."""

    threads: int
    """Compute threads of this worker."""
    cores: tuple[int, ...]
    """CPU ids to which the worker is pinned; empty: not pinned."""
    cpu_quota: float | None = None
    """The share of its cores' time to which the worker is limited; None: all."""
    machine: str | None = None
    """The name of the machine for which the worker is planned; None: this one."""
    device: DeviceConfig | None = None
    """The device on which the worker computes; None: the processor."""
    python: str | None = None
    """The path of the Python that runs the worker; None: the head's."""

    def placement(self) -> dict[str, Any]:
        """The fields of the placement, as keyword arguments for another worker in the same place."""
        return {field.name: getattr(self, field.name) for field in fields(WorkerPlacement)}

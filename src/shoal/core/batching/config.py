"""How requests for an ONNX graph are put together to batches."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig:
    """What a batch may hold and how long anything may wait. Raises ConfigError where a value is out of range."""

    max_batch: int = 32
    """rows of one batch, >= 1; a graph with fixed rows runs with those, one without rows takes a request at a time"""
    batch_delay_s: float = 0.0
    """a batch that is not full may wait so long for more, but only while its replica works on another, >= 0"""
    max_queue_rows: int = 4096
    """rows that may wait, >= 1; a single larger request is taken while nothing else waits"""
    min_cut_rows: int = 8
    """a request that fits into a batch is never cut into pieces smaller than this only to spread it over replicas and
    stages, >= 1: a judgment, since what a run costs whatever its rows weighs more the fewer they are"""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue_rows", "min_cut_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1")
        if not self.batch_delay_s >= 0:
            raise ConfigError(f"batch_delay_s is {self.batch_delay_s}, but it must be at least 0")

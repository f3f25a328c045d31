"""Limits for batching the requests of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig:
    """Limits of batches and of the queue. Raises ConfigError if a value is out of range."""

    max_batch: int = 32
    """The most rows of one batch, >= 1. A graph with a fixed number of rows uses that number instead; a graph without a
    batch axis computes one request at a time."""
    batch_delay_s: float = 0.0
    """Seconds that a batch that is not full may wait for more rows while its replica computes another one, >= 0."""
    max_queue_rows: int = 4096
    """The most rows that may wait, >= 1. A single larger request is accepted while nothing else waits."""
    min_cut_rows: int = 8
    """The smallest piece, in rows, into which a request that fits into one batch is cut to spread it over replicas and
    stages, >= 1. A judgment: the fixed cost of a run weighs more the fewer rows it has."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue_rows", "min_cut_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1")
        if not self.batch_delay_s >= 0:
            raise ConfigError(f"batch_delay_s is {self.batch_delay_s}, but it must be at least 0")

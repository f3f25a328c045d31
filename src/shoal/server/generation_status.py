"""What the probes ask of a language model's data plane."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shoal.errors import WorkerLost
from shoal.server.data_plane import DataPlane
from shoal.server.readiness import ReadinessProbe

STATS_TIMEOUT_S = 1.0
"""A long step of an in-process engine must not fail a scrape; Prometheus itself waits 10 s by default."""


class GenerationStatus:
    """Implements `probes.Status`."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        self._readiness = ReadinessProbe(data_plane)

    @property
    def failure(self) -> str | None:
        """Why the engine can do no more work; None while it can."""
        return self._data_plane.failure

    async def unreadiness(self) -> str | None:
        """None when a token came lately, or comes now."""
        if await self._readiness.is_ready():
            return None
        return "no token was produced lately, and a test request has produced none in time"

    async def expose_metrics(self, accept: str) -> tuple[bytes, str]:
        """The server's metrics with the engine's counters."""
        metrics = self._data_plane.metrics
        with suppress(TimeoutError, WorkerLost):  # then the counters are those of the last time
            async with asyncio.timeout(STATS_TIMEOUT_S):
                metrics.read_engine(await self._data_plane.stats())
        return metrics.expose(accept)

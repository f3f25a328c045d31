"""What the probes need to know about a language model's data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from shoal.core.recovery.replica_status import describe_replicas
from shoal.errors import ConfigError, ShuttingDown, WorkerLost
from shoal.executor.remote.strikes import Strike
from shoal.generation.data_plane import DataPlane
from shoal.generation.seams import GenerationStats
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.draining import Drain
from shoal.server.http.health.readiness import ReadinessProbe
from shoal.server.http.health.story import story_dicts

STATS_TIMEOUT_S = 1.0
"""A long step of an in-process engine must not let a scrape fail; Prometheus itself waits 10 s by default."""
HANG_S = 30.0
"""The engine only passes messages on, within milliseconds, while workers compute. A judgment: three probes of
Kubernetes, so that a machine that pauses for a while does not count as hanging."""


class MachineState(Protocol):
    """The machines that a model runs on, if there are several."""

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon because of them; None: it will not."""
        ...

    def describe(self) -> list[dict[str, str]]:
        """Name and state of each machine: `name` and `state`."""
        ...

    def strike(self, machine: str, strike: Strike) -> None:
        """Do to a machine what a drill asks for; blocks for a moment. Raises ConfigError, WorkerLost."""
        ...


class GenerationStatus:
    """Implements `probes.Status`."""

    def __init__(
        self,
        data_plane: DataPlane,
        metrics: ServerMetrics,
        drain: Drain,
        plan: Callable[[], Mapping[str, Any]],
        machines: MachineState | None = None,
    ) -> None:
        """
        Args:
            data_plane: of the model.
            metrics: of the model.
            drain: whether the server is about to end.
            plan: returns the model's present plan as plain data.
            machines: that the model runs on; None: this one.
        """
        self._data_plane = data_plane
        self._metrics = metrics
        self._drain = drain
        self._plan = plan
        self._machines = machines
        self._readiness = ReadinessProbe(data_plane)

    @property
    def failure(self) -> str | None:
        """Why the engine can do no more work; None while it can."""
        if self._data_plane.failure is not None:
            return self._data_plane.failure
        silent_s = self._data_plane.engine_silent_s()
        return None if silent_s < HANG_S else f"the engine has not moved for {silent_s:.0f} s"

    async def unreadiness(self) -> str | None:
        """Why requests would not be answered now; None if a token came recently, or comes now, and there are workers
        for more."""
        if self._drain.is_on:
            return str(ShuttingDown())
        if self._machines is not None and self._machines.trouble is not None:
            return self._machines.trouble
        stats = await self._read_stats()
        if stats is not None and not stats.num_replicas:
            return f"{stats.num_recovering} replicas have lost their workers, which are being started again"
        if await self._readiness.is_ready():
            return None
        return "no token was produced lately, and a test request has produced none in time"

    async def describe(self) -> list[dict[str, Any]]:
        """The model as plain data; without counters if the engine is busy."""
        metrics, stats = self._metrics, await self._read_stats()
        counters: dict[str, Any] = metrics.token_counts()
        replicas: list[dict[str, Any]] = []
        if stats is not None:
            names = ("num_running", "num_waiting", "num_losses", "num_recoveries", "num_replays")
            counters |= {name.removeprefix("num_"): getattr(stats, name) for name in names}
            replicas = describe_replicas(stats)
        model: dict[str, Any] = {"name": metrics.model_name, "kind": "language model", "plan": self._plan()}
        model["takes_pictures"] = self._data_plane.pictures is not None
        if self._machines is not None and (machines := self._machines.describe()):
            model["machines"] = machines
        return [{**model, "replicas": replicas, "counters": counters}]

    async def strike(self, model: str, machine: str, strike: Strike) -> None:
        """See `Status.strike`."""
        if self._machines is None:
            raise ConfigError(f"{model} runs only on the server's own machine")
        await asyncio.to_thread(self._machines.strike, machine, strike)

    async def story(self, of: str) -> list[dict[str, Any]]:
        """The latest events of a replica or a request. Raises WorkerLost."""
        entries = await self._data_plane.story(of)
        return story_dicts(entries, now_s=self._data_plane.now_s(), model=self._metrics.model_name)

    async def expose_metrics(self) -> bytes:
        """The server's metrics with the engine's counters."""
        metrics = self._metrics
        stats = await self._read_stats()
        if stats is not None:
            metrics.read_engine(stats)
        return metrics.expose()

    async def _read_stats(self) -> GenerationStats | None:
        """The engine's counters; None if it is busy, or can do no more work."""
        with suppress(TimeoutError, WorkerLost):
            async with asyncio.timeout(STATS_TIMEOUT_S):
                return await self._data_plane.stats()
        return None

"""Following the server's metrics while workers are killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import httpx

from shoal.bench.chaos.killer import Killer
from shoal.errors import WorkerLost
from shoal.server.switch.server_process import ServerProcess

_PERIOD_S = 0.2
"""Seconds between two reads. Recoveries that end closer together are recorded with their mean."""
_SETTLE_TIMEOUT_S = 120.0


class Watcher:
    """Reads the server's /metrics repeatedly."""

    def __init__(self, server: ServerProcess, killer: Killer, client: httpx.AsyncClient, prefix: str) -> None:
        """`prefix`: the prefix of the metrics' names."""
        self.recoveries_s: list[float] = []
        """Seconds without workers of each recovery."""
        self._server = server
        self._killer = killer
        self._client = client
        self._prefix = prefix
        self._first: Mapping[str, float] = {}
        self._last: Mapping[str, float] = {}

    def grown(self, name: str) -> int:
        """The growth of a counter since the first read."""
        return round(self._last.get(name, 0.0) - self._first.get(name, 0.0))

    @property
    def num_losses(self) -> int:
        """Times that a replica lost workers since the first read."""
        return self.grown("worker_losses_total") or self.grown("worker_losses")

    async def look(self) -> None:
        """Read the metrics once. Raises httpx.HTTPError."""
        samples = await self._server.metrics(self._client)
        own = {name.removeprefix(self._prefix): value for name, value in samples.items()}
        before, self._last = self._last, own
        self._first = self._first or self._last
        self._killer.num_serving = round(self._last.get("replicas", 0.0))
        self._killer.num_recovering = round(self._last.get("replicas_recovering", 0.0))
        num_new = _growth(before, self._last, "recovery_seconds_count") if before else 0.0
        if num_new:
            mean_s = _growth(before, self._last, "recovery_seconds_sum") / num_new
            self.recoveries_s += [mean_s] * round(num_new)

    async def run(self) -> None:
        """Read the metrics repeatedly, until cancelled or the server is gone."""
        while self._server.exit_status is None:
            with suppress(httpx.HTTPError):
                await self.look()
            await asyncio.sleep(_PERIOD_S)

    async def wait_until_whole(self, use: Callable[[], Awaitable[None]]) -> None:
        """Wait until every replica has its workers again.

        Args:
            use: sends requests to all replicas, as an idle replica does not notice the loss of a worker.

        Raises:
            WorkerLost: the server has ended, or does not recover.
        """
        end_s = time.perf_counter() + _SETTLE_TIMEOUT_S
        while not self._is_over():
            if self._server.exit_status is not None:
                raise WorkerLost(f"the server ended with status {self._server.exit_status}: {self._server.last_words}")
            if time.perf_counter() > end_s:
                raise WorkerLost(f"the server has not recovered within {_SETTLE_TIMEOUT_S:.0f} s after the last kill")
            await use()
            with suppress(httpx.HTTPError):
                await self.look()
            await asyncio.sleep(_PERIOD_S)

    def _is_over(self) -> bool:
        return not self._killer.num_recovering and all(kill.gone_s is not None for kill in self._killer.kills)


def _growth(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)

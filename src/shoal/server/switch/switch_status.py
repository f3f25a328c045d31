"""What the probes need to know about a server of several models, from its models' servers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from shoal.errors import ConfigError, ShuttingDown
from shoal.executor.remote.strikes import Strike
from shoal.server.http.draining import Drain
from shoal.server.switch.merged_metrics import merge_metrics
from shoal.server.switch.switchboard import Switchboard

_TIMEOUT_S = 15.0
"""Time limit for a question to a model's server: `/ready` may wait 10 s for a canary."""


class SwitchStatus:
    """Implements `probes.Status`."""

    def __init__(self, switchboard: Switchboard, client: httpx.AsyncClient, drain: Drain) -> None:
        """`client`: sends the servers' key."""
        self._switchboard, self._client, self._drain = switchboard, client, drain

    @property
    def failure(self) -> str | None:
        """None: a model whose server has ended is started again when it is needed."""
        return None

    async def unreadiness(self) -> str | None:
        """Why the first loaded model that does not answer is not ready; None: all answer."""
        if self._drain.is_on:
            return str(ShuttingDown())
        answers = await self._ask("/ready")
        reasons = [f"{name}: {_reason(answer)}" for name, answer in answers.items() if _reason(answer)]
        return reasons[0] if reasons else None

    async def describe(self) -> list[dict[str, Any]]:
        """The models as plain data: loaded ones as their servers describe them, others by name and path."""
        answers = await self._ask("/status")
        told = {name: answer.json()["models"] for name, answer in answers.items() if answer is not None}
        phase = self._switchboard.residency.phase
        return [
            one
            for name in self._switchboard.names
            for one in told.get(name, [{"name": name, "kind": "language model", "state": phase(name).value}])
        ]

    async def strike(self, model: str, machine: str, strike: Strike) -> None:
        """See `Status.strike`. Models that are loaded on demand run on this machine."""
        raise ConfigError(f"{model} runs only on the server's own machine")

    async def story(self, of: str) -> list[dict[str, Any]]:
        """The events that any of the servers has about it."""
        answers = await self._ask("/status/story", {"of": of})
        return [entry for answer in answers.values() if answer is not None for entry in answer.json()["entries"]]

    async def expose_metrics(self) -> bytes:
        """The metrics of all loaded models."""
        answers = await self._ask("/metrics")
        pages = [answer.text for answer in answers.values() if answer is not None]
        return merge_metrics(pages).encode()

    async def _ask(self, path: str, query: dict[str, str] | None = None) -> dict[str, httpx.Response | None]:
        """Answers by models' names; None: the server did not answer."""
        servers = self._switchboard.servers
        asked = (self._ask_one(server.url + path, query) for server in servers.values())
        return dict(zip(servers, await asyncio.gather(*asked), strict=True))

    async def _ask_one(self, url: str, query: dict[str, str] | None) -> httpx.Response | None:
        try:
            answer = await self._client.get(url, params=query, timeout=_TIMEOUT_S)
        except httpx.HTTPError:
            return None
        return answer if answer.status_code in (200, 503) else None


def _reason(answer: httpx.Response | None) -> str | None:
    if answer is None:
        return "its server does not answer"
    return None if answer.status_code == 200 else str(answer.json().get("reason"))

"""A client of a running server that reads its workers and machines and takes them away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from shoal.bench.drill.targets import DrillTarget
from shoal.bench.server_answer import check_address, key_header, told_by
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.remote.strikes import StrikeKind

_TIMEOUT_S = 20.0
"""Longest wait for an answer; another machine has 10 s to carry out a strike."""


class DrilledServer:
    """A server that may be drilled."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """Raises ConfigError if the address or the key is invalid."""
        check_address(url)
        self.url = url.rstrip("/")
        self.http = httpx.AsyncClient(timeout=_TIMEOUT_S, headers=key_header(api_key))

    async def models(self) -> list[dict[str, Any]]:
        """The models in `/status`. Raises ConfigError, WorkerLost."""
        return told_by(await self._ask("GET", "/status"), self.url, "models")["models"]

    async def model(self, name: str) -> dict[str, Any]:
        """A model in `/status`. Raises ConfigError; WorkerLost if it is no longer loaded or the server does not
        answer."""
        found = next((one for one in await self.models() if one["name"] == name and "replicas" in one), None)
        if found is None:
            raise WorkerLost(f"{name} is not loaded any more by the server at {self.url}")
        return found

    async def first_loaded(self) -> dict[str, Any]:
        """The first loaded model in `/status`. Raises ConfigError if there is none; WorkerLost."""
        found = next((one for one in await self.models() if one.get("replicas")), None)
        if found is None:
            raise ConfigError(f"the server at {self.url} has no loaded model")
        return found

    async def metadata(self, model: str) -> dict[str, Any]:
        """The metadata of a graph: its inputs and outputs. Raises ConfigError, WorkerLost."""
        return told_by(await self._ask("GET", f"/v2/models/{model}"), self.url, "inputs")

    async def strike(self, target: DrillTarget, how: StrikeKind, cable_s: float) -> None:
        """Take a worker or a machine away. Raises ConfigError if the server refuses; WorkerLost."""
        if target.worker is None:
            path, fields = "/status/strike", {"machine": target.machine, "for_s": cable_s}
        else:
            path, fields = "/status/kill", {"replica": target.replicas[0], "worker": target.worker}
        response = await self._ask("POST", path, {"model": target.model, "how": how, **fields})
        if response.status_code == 404:
            raise ConfigError(f"the server at {self.url} does not allow drills: start it with --allow-drill")
        if response.status_code != 200:
            raise ConfigError(f"{target.name}: {_reason(response)}")

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self.http.aclose()

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        try:
            return await self.http.request(method, f"{self.url}{path}", json=body)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigError(f"{self.url} is not the address of a server: {error}") from error
        except httpx.HTTPError as error:
            raise WorkerLost(f"no server answers at {self.url}: {error}") from error


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json().get("reason", response.text[:200]))
    except ValueError:
        return response.text[:200]

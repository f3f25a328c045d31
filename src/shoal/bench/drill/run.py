"""Take workers of a running server away, one after the other, and compare the pauses with what was foretold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx
import uvloop

from shoal.bench.drill.pauses import (
    STRIKES,
    DrillTarget,
    SeenPauses,
    StreamPace,
    Strike,
    predict_pause,
    seen_pause,
    targets_of,
)
from shoal.bench.drill.streams import DrillStreams
from shoal.bench.event_stream import parse_endpoint
from shoal.bench.server_answer import told_by
from shoal.errors import ConfigError, WorkerLost

_TIMEOUT_S = 10.0
_RECOVERED_WITHIN_S = 120.0
_PACE_WITHIN_S = 120.0
_LOOK_S = 0.1
_STREAMS_A_REPLICA = 2
_SETTLED_TOKENS = 4
"""Tokens that streams get after a loss before the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRow:
    """What was predicted and seen of one loss."""

    target: DrillTarget
    how: Strike
    predicted_s: float
    seen_s: float

    @property
    def error(self) -> float:
        """The error of the prediction, as a part of what was seen."""
        return abs(self.predicted_s - self.seen_s) / self.seen_s if self.seen_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport:
    """The rows of all losses."""

    rows: tuple[DrillRow, ...]
    num_requests: int
    num_lost: int
    first_error: str | None

    @property
    def median_error(self) -> float:
        return median(row.error for row in self.rows) if self.rows else 0.0


class DrilledServer:
    """A server at some address that may be drilled."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, headers=headers)

    async def models(self) -> list[dict[str, Any]]:
        """The models that `/status` tells of. Raises ConfigError, WorkerLost."""
        return told_by(await self._ask("GET", "/status"), self.url, "models")["models"]

    async def language_models(self) -> list[dict[str, Any]]:
        """Those of them that are language models and loaded, one at least. Raises ConfigError, WorkerLost."""
        found = [one for one in await self.models() if one["kind"] == "language model" and "replicas" in one]
        if not found:
            raise ConfigError(f"the server at {self.url} serves no language model that is loaded")
        return found

    async def strike(self, target: DrillTarget, how: Strike) -> None:
        """Take a worker away. Raises ConfigError where the server does not let it be done."""
        body = {"model": target.model, "replica": target.replica, "worker": target.worker, "how": how}
        response = await self._ask("POST", "/status/kill", body)
        if response.status_code == 404:
            raise ConfigError(f"the server at {self.url} lets nobody take workers away: start it with --allow-drill")
        if response.status_code != 200:
            raise ConfigError(f"{target.name}: {_reason(response)}")

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        try:
            return await self._client.request(method, f"{self.url}{path}", json=body)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigError(f"{self.url} is no address of a server: {error}") from error
        except httpx.HTTPError as error:
            raise WorkerLost(f"no server answers at {self.url}: {error}") from error


def run_drill(
    url: str,
    *,
    every: bool = False,
    hows: Sequence[Strike] = STRIKES,
    api_key: str | None = None,
    worker_timeout_s: float | None = None,
    tell: Callable[[DrillRow], None] = lambda row: None,
) -> DrillReport:
    """The whole drill, in an event loop of its own.

    Args:
        url: of the server.
        every: take every worker, instead of the first of each replica.
        hows: in turn for each worker.
        api_key: of the server, if it has one.
        worker_timeout_s: the server's, where it is not the default.
        tell: told of each loss when it is over.

    Raises:
        ConfigError: the server may not be drilled, or serves no language model.
        WorkerLost: it does not answer, or does not recover.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(url, every, hows, api_key, worker_timeout_s, tell))


def check_drilled(url: str, api_key: str | None) -> None:
    """Whether there is a server at all. Raises ConfigError, WorkerLost."""

    async def check() -> None:
        server = DrilledServer(url, api_key)
        try:
            await server.language_models()
        finally:
            await server.close()

    asyncio.run(check())


async def _run(
    url: str,
    every: bool,
    hows: Sequence[Strike],
    api_key: str | None,
    worker_timeout_s: float | None,
    tell: Callable[[DrillRow], None],
) -> DrillReport:
    server = DrilledServer(url, api_key)
    try:
        model = (await server.language_models())[0]
        count = _STREAMS_A_REPLICA * len(model["replicas"])
        endpoint = parse_endpoint(url, "/v1/completions")
        rows: list[DrillRow] = []
        seen = SeenPauses()
        async with DrillStreams(endpoint, model["name"], count=count, api_key=api_key) as streams:
            pace = await _find_pace(streams)
            for target in targets_of([model], every=every):
                for how in hows:
                    num_running = await _wait_for_streams(server, target)
                    predicted_s = predict_pause(
                        target,
                        how,
                        pace,
                        seen,
                        known_tokens=num_running * streams.known_tokens(),
                        worker_timeout_s=worker_timeout_s,
                    )
                    seen_s = await _lose(server, streams, target, how)
                    rows.append(DrillRow(target=target, how=how, predicted_s=predicted_s, seen_s=seen_s))
                    if not target.has_others:
                        rest_s = predicted_s - seen.restart_s(how, target)
                        seen.note(how, max(0.0, seen_s - rest_s))
                    tell(rows[-1])
            await streams.finish()
    finally:
        await server.close()
    return DrillReport(
        rows=tuple(rows),
        num_requests=len(streams.outcomes),
        num_lost=streams.num_lost,
        first_error=streams.first_error,
    )


async def _find_pace(streams: DrillStreams) -> StreamPace:
    """Of streams that nothing disturbs. Raises WorkerLost where none comes."""
    started_s = time.perf_counter()
    while time.perf_counter() < started_s + _PACE_WITHIN_S:
        await asyncio.sleep(_LOOK_S)
        if streams.first_error is not None:
            raise ConfigError(f"the server cannot answer even undisturbed: {streams.first_error}")
        if (pace := streams.pace(started_s)) is not None:
            return pace
    raise WorkerLost(f"the server answered too little within {_PACE_WITHIN_S:.0f} s")


async def _wait_for_streams(server: DrilledServer, target: DrillTarget) -> int:
    """Until the replica has its share of the streams, which were elsewhere while it had no workers. Returns how many it
    has. Raises WorkerLost where it gets none."""
    deadline_s = time.perf_counter() + _PACE_WITHIN_S
    while time.perf_counter() < deadline_s:
        (model,) = [one for one in await server.models() if one["name"] == target.model]
        if (num_running := model["replicas"][target.replica]["running"]) >= _STREAMS_A_REPLICA:
            return num_running
        await asyncio.sleep(_LOOK_S)
    raise WorkerLost(f"{target.name}: no stream came to its replica within {_PACE_WITHIN_S:.0f} s")


async def _lose(server: DrilledServer, streams: DrillStreams, target: DrillTarget, how: Strike) -> float:
    """Take a worker away and wait until everything is as it was. Returns the pause that streams had."""
    before = await _counters(server, target)
    struck_s = time.perf_counter()
    await server.strike(target, how)
    while time.perf_counter() < struck_s + _RECOVERED_WITHIN_S:
        await asyncio.sleep(_LOOK_S)
        if await _is_whole(server, target, before) and _have_gone_on(streams, time.perf_counter() - 2 * _LOOK_S):
            return seen_pause(streams.arrivals(), struck_s)
    raise WorkerLost(f"{target.name} was taken away and is not back after {_RECOVERED_WITHIN_S:.0f} s")


async def _counters(server: DrilledServer, target: DrillTarget) -> int:
    """How often replicas have recovered."""
    (model,) = [one for one in await server.models() if one["name"] == target.model]
    return model["counters"].get("recoveries", 0)


async def _is_whole(server: DrilledServer, target: DrillTarget, recoveries_before: int) -> bool:
    """Whether the replica has its workers again, as all others have."""
    (model,) = [one for one in await server.models() if one["name"] == target.model]
    is_back = model["counters"].get("recoveries", 0) > recoveries_before
    return is_back and all(one["state"] == "serving" and not one["is_reduced"] for one in model["replicas"])


def _have_gone_on(streams: DrillStreams, since_s: float) -> bool:
    """Whether tokens come again."""
    late = [time_s for times in streams.arrivals() for time_s in times[-_SETTLED_TOKENS:] if time_s >= since_s]
    return len(late) >= _SETTLED_TOKENS or streams.num_lost > 0


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json().get("reason", response.text[:200]))
    except ValueError:
        return response.text[:200]

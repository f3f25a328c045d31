"""Take workers and machines of a running server away, one after the other, and compare the pauses with predictions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import uvloop

from shoal.arrays import Array
from shoal.bench.drill.clients import CLIENTS_A_REPLICA, DrillClients
from shoal.bench.drill.inferences import DrillInferences, made_up_inputs
from shoal.bench.drill.pauses import (
    ClientPace,
    DrillTimes,
    SeenPauses,
    drill_times,
    predict_pause,
    seen_pause,
)
from shoal.bench.drill.server import DrilledServer
from shoal.bench.drill.streams import DrillStreams
from shoal.bench.drill.targets import DrillTarget, targets_of
from shoal.bench.event_stream import parse_endpoint
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.remote.strikes import STRIKE_KINDS, StrikeKind

_RECOVERED_WITHIN_S = 120.0
_PACE_WITHIN_S = 120.0
_LOOK_S = 0.1
_SETTLED_ARRIVALS = 4
"""Tokens or answers that each client must get after a loss before the next one."""
_IS_THERE = ("has workers", "has no workers")
"""States of machines that are there. Source: machines.machines.describe_machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillPlan:
    """The workers and machines that a drill takes away, and how."""

    every: bool = False
    """Whether to take every worker away instead of only the first of each replica."""
    hows: tuple[StrikeKind, ...] = STRIKE_KINDS
    """Kinds of strikes, all of which are done to each worker and machine where possible."""
    worker_timeout_s: float | None = None
    """The server's worker timeout; None: the default."""
    cable_s: float | None = None
    """Seconds for which cables are pulled; None: twice the worker timeout and a second."""
    inputs: Mapping[str, Array] | None = None
    """Rows for a graph, along the first axes; None: one row is made up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRow:
    """The predicted and measured pause of one loss."""

    target: DrillTarget
    how: StrikeKind
    predicted_s: float
    seen_s: float

    @property
    def error(self) -> float:
        """The error of the prediction relative to the measured pause."""
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


def run_drill(
    url: str,
    plan: DrillPlan | None = None,
    *,
    api_key: str | None = None,
    tell: Callable[[DrillRow], None] = lambda row: None,
) -> DrillReport:
    """Drill the first loaded model of a server, in a new event loop.

    Args:
        url: the server's address.
        plan: what to take away; None: the defaults of `DrillPlan`.
        api_key: the server's key, if it has one.
        tell: called after each loss.

    Raises:
        ConfigError: the server does not allow drills, or has no model.
        WorkerLost: it does not answer, or does not recover.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(url, plan or DrillPlan(), api_key, tell))


def check_drilled(url: str, api_key: str | None) -> None:
    """Check that a server answers. Raises ConfigError, WorkerLost."""

    async def check() -> None:
        server = DrilledServer(url, api_key)
        try:
            await server.first_loaded()
        finally:
            await server.close()

    asyncio.run(check())


async def _run(url: str, plan: DrillPlan, api_key: str | None, tell: Callable[[DrillRow], None]) -> DrillReport:
    times = drill_times(plan.worker_timeout_s, plan.cable_s)
    server = DrilledServer(url, api_key)
    try:
        model = await server.first_loaded()
        rows: list[DrillRow] = []
        async with await _clients(server, model, plan, api_key) as clients:
            drill = _Drill(server, clients, times, await _find_pace(clients))
            for target in targets_of(model, every=plan.every):
                for how in target.ways_of(plan.hows):
                    rows.append(await drill.lose(target, how))
                    tell(rows[-1])
            await clients.finish()
    finally:
        await server.close()
    return DrillReport(
        rows=tuple(rows),
        num_requests=len(clients.errors()),
        num_lost=clients.num_lost,
        first_error=clients.first_error,
    )


async def _clients(
    server: DrilledServer, model: Mapping[str, Any], plan: DrillPlan, api_key: str | None
) -> DrillClients:
    """Make the clients for the model's kind of work."""
    name, count = model["name"], CLIENTS_A_REPLICA * len(model["replicas"])
    if model["kind"] == "language model":
        return DrillStreams(parse_endpoint(server.url, "/v1/completions"), name, count=count, api_key=api_key)
    inputs = made_up_inputs(await server.metadata(name)) if plan.inputs is None else plan.inputs
    return DrillInferences(server.http, server.url, name, inputs, count=count)


async def _find_pace(clients: DrillClients) -> ClientPace:
    """The pace of undisturbed clients. Raises ConfigError if requests fail, WorkerLost if too few are answered."""
    started_s = time.perf_counter()
    while time.perf_counter() < started_s + _PACE_WITHIN_S:
        await asyncio.sleep(_LOOK_S)
        if clients.first_error is not None:
            raise ConfigError(f"the server cannot answer even undisturbed: {clients.first_error}")
        if (pace := clients.pace(started_s)) is not None:
            return pace
    raise WorkerLost(f"the server answered too little within {_PACE_WITHIN_S:.0f} s")


class _Drill:
    """A drill in progress, with the restart times of its losses so far."""

    def __init__(self, server: DrilledServer, clients: DrillClients, times: DrillTimes, pace: ClientPace) -> None:
        self._server, self._clients, self._times, self._pace = server, clients, times, pace
        self._seen = SeenPauses()

    async def lose(self, target: DrillTarget, how: StrikeKind) -> DrillRow:
        """Predict the pause of a loss, cause it, and wait for full recovery. Raises ConfigError, WorkerLost."""
        again = self._clients.again(await self._wait_for_work(target))
        predicted_s = predict_pause(target, how, self._pace, self._seen, self._times, again=again)
        seen_s = await self._strike(target, how)
        if not target.has_others:
            rest_s = predicted_s - self._seen.restart_s(how, target, self._times)
            self._seen.note(how, target, self._times, max(0.0, seen_s - rest_s))
        return DrillRow(target=target, how=how, predicted_s=predicted_s, seen_s=seen_s)

    async def _wait_for_work(self, target: DrillTarget) -> int:
        """Wait until the replicas have their share of the requests, which moved away while they had no workers. Returns
        the number of their requests. Raises WorkerLost if they get none."""
        deadline_s = time.perf_counter() + _PACE_WITHIN_S
        while time.perf_counter() < deadline_s:
            replicas = (await self._server.model(target.model))["replicas"]
            running = [replicas[index]["running"] for index in target.replicas if index < len(replicas)]
            if len(running) == len(target.replicas) and min(running) >= self._clients.least_running:
                return sum(running)
            await asyncio.sleep(_LOOK_S)
        raise WorkerLost(f"{target.name}: no request came to its replica within {_PACE_WITHIN_S:.0f} s")

    async def _strike(self, target: DrillTarget, how: StrikeKind) -> float:
        """Cause a loss and wait for recovery. Returns the pause of the clients."""
        losses = await self._num_losses(target)
        struck_s = time.perf_counter()
        await self._server.strike(target, how, self._times.cable_s)
        while time.perf_counter() < struck_s + _RECOVERED_WITHIN_S:
            await asyncio.sleep(_LOOK_S)
            if await self._is_whole(target, losses) and self._have_gone_on(time.perf_counter() - 2 * _LOOK_S):
                return seen_pause(self._clients.arrivals(), struck_s)
        raise WorkerLost(f"{target.name} was taken away and has not come back after {_RECOVERED_WITHIN_S:.0f} s")

    async def _num_losses(self, target: DrillTarget) -> int:
        """Number of times that replicas have lost workers."""
        return (await self._server.model(target.model))["counters"].get("losses", 0)

    async def _is_whole(self, target: DrillTarget, losses_before: int) -> bool:
        """Whether the loss was noticed, every replica has its workers again, and all machines are there."""
        model = await self._server.model(target.model)
        replicas = model["replicas"]
        return (
            model["counters"].get("losses", 0) > losses_before
            and bool(replicas)
            and all(one["state"] == "serving" and not one["is_reduced"] for one in replicas)
            and all(one["state"] in _IS_THERE for one in model.get("machines", ()) if one["name"] == target.machine)
        )

    def _have_gone_on(self, since_s: float) -> bool:
        """Whether enough tokens or answers have arrived since a time."""
        late = [
            time_s for times in self._clients.arrivals() for time_s in times[-_SETTLED_ARRIVALS:] if time_s >= since_s
        ]
        return len(late) >= _SETTLED_ARRIVALS or self._clients.num_lost > 0

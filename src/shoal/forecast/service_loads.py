"""Small loads on a planned cluster, which a server is put under and which are simulated as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median

import httpx

from shoal.bench.load import Load
from shoal.bench.load_generator import RequestOutcome
from shoal.forecast.planned_cluster import PlannedCluster
from shoal.forecast.serving_times import MEASURED_NAME, plain_ids, send
from shoal.forecast.simulate import simulate
from shoal.planner.speeds.unevenness import TimedMoment
from shoal.sim.cluster.outcome import SimulationOutcome
from shoal.sim.traffic.visit import Clients

_PROMPT_TOKENS = 128
"""Prompt tokens of each request, if half of the model's context holds as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeen:
    """The times of a load, predicted or real."""

    first_s: float
    """Median seconds to the first token: a few slow moments are unevenness and make no prompt longer."""
    token_s: float
    """Median over the requests of their mean seconds between two tokens."""
    busy_s: float
    """Seconds of computing, summed over all workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLoad:
    """A closed loop of requests that are all of the same size."""

    clients: int
    num_requests: int
    prompt_tokens: int
    output_tokens: int
    least_s: float
    """Seconds of the shortest load, with one request per client."""


def plan_load(cluster: PlannedCluster, clients: int, output_tokens: int, enough_s: float) -> PlannedLoad:
    """A load that takes about as long as it should.

    Args:
        cluster: the cluster that is to serve it.
        clients: the number of clients.
        output_tokens: tokens of each answer, if a quarter of the model's context holds as many.
        enough_s: seconds that the load should take, > 0.
    """
    context = cluster.replicas()[0].config.max_context
    output_tokens = max(2, min(output_tokens, context // 4))
    prompt_tokens = max(1, min(_PROMPT_TOKENS, context // 2))
    least = _simulated(cluster, clients, clients, prompt_tokens, output_tokens)
    waves = ceil(enough_s / max(least.duration_s, enough_s / 64.0))
    return PlannedLoad(
        clients=clients,
        num_requests=clients * waves,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        least_s=least.duration_s,
    )


def foretold(cluster: PlannedCluster, load: PlannedLoad) -> LoadSeen:
    """The times of a load in a simulation."""
    outcome = _simulated(cluster, load.clients, load.num_requests, load.prompt_tokens, load.output_tokens)
    return LoadSeen(first_s=outcome.ttft.p50_s, token_s=outcome.tpot.p50_s, busy_s=worker_seconds(cluster, outcome))


def worker_seconds(cluster: PlannedCluster, outcome: SimulationOutcome) -> float:
    """Seconds of computing in a simulation, summed over all workers."""
    return outcome.duration_s * sum(outcome.busy_share[machine] for machine in cluster.machines)


def _simulated(
    cluster: PlannedCluster, clients: int, num_requests: int, prompt_tokens: int, output_tokens: int
) -> SimulationOutcome:
    traffic = Clients(
        count=clients,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        until_s=float("inf"),
        num_requests=num_requests,
    )
    return simulate(cluster, traffic, clients_here=True).outcome


def put_on(cluster: PlannedCluster, url: str, load: PlannedLoad) -> tuple[LoadSeen, Sequence[RequestOutcome]]:
    """Put a load on a server of the plan at `url`. Raises ConfigError if a request fails."""
    num_replicas = len(cluster.plan.replicas)
    send(_request_load(cluster, url, load, num_requests=num_replicas, clients=num_replicas))  # warms up each replica
    before_s = busy_seconds(cluster, url)
    outcomes = send(_request_load(cluster, url, load, num_requests=load.num_requests, clients=load.clients))
    return seen_of(outcomes, busy_seconds(cluster, url) - before_s), outcomes


def busy_seconds(cluster: PlannedCluster, url: str) -> float:
    """Seconds of computing so far, summed over all workers of a server."""
    (model,) = httpx.get(f"{url}/status", timeout=30.0).json()["models"]
    return sum(
        stage["busy_s"] * len(planned.shards)
        for replica, plan in zip(model["replicas"], cluster.plan.replicas, strict=True)
        for stage, planned in zip(replica["stages"], plan.stages, strict=True)
    )


def _request_load(cluster: PlannedCluster, url: str, load: PlannedLoad, *, num_requests: int, clients: int) -> Load:
    return Load(
        base_url=url,
        model=MEASURED_NAME,
        concurrency=clients,
        num_prompts=num_requests,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        num_warmups=0,
        seed=num_requests,
        token_id_range=plain_ids(cluster.model.config.vocab_size),
    )


def moments_of(outcomes: Sequence[RequestOutcome], num_clients: int) -> list[list[TimedMoment]]:
    """The waits of each client as moments, token by token."""
    moments: list[list[TimedMoment]] = [[] for _ in range(num_clients)]
    for one in sorted(outcomes, key=lambda outcome: outcome.started_s):
        times_s = (one.started_s, *one.arrivals_s)
        for index, (begun_s, done_s) in enumerate(pairwise(times_s)):
            if done_s > begun_s:
                moments[one.client].append(TimedMoment(index == 0, done_s - begun_s, done_s - begun_s))
    return moments


def seen_of(outcomes: Sequence[RequestOutcome], busy_s: float) -> LoadSeen:
    """The times of an observed load, for which all workers computed `busy_s`."""
    return LoadSeen(
        first_s=median(one.arrivals_s[0] - one.started_s for one in outcomes),
        token_s=median((one.arrivals_s[-1] - one.arrivals_s[0]) / max(1, one.output_tokens - 1) for one in outcomes),
        busy_s=busy_s,
    )

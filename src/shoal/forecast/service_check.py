"""The speed of planned workers while a server uses them: two small loads, predicted and real.

Workers that are timed by themselves have the caches and cores of their machine to themselves. Beside a head and clients
they are slower, by more than the processor time that these take, and clients notice how their speed varies.

The first load has one client per replica, so the waits of a client show the speed of one replica; the second load has
several. Both are predicted with the observed unevenness, and compared by what a typical request took.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import median

import httpx

from shoal.bench.load import Load
from shoal.bench.load_generator import RequestOutcome
from shoal.core.speed.step_times import StepShape
from shoal.forecast.planned_cluster import InService, PlannedCluster
from shoal.forecast.serving_times import MEASURED_NAME, plain_ids, send, serving
from shoal.forecast.simulate import simulate
from shoal.planner.files.plan_file import write_plan
from shoal.planner.speeds.drift import times_as_long
from shoal.planner.speeds.speeds import Curve
from shoal.planner.speeds.unevenness import TimedMoment, unevenness_of
from shoal.sim.cluster.outcome import SimulationOutcome
from shoal.sim.traffic.visit import Clients

_PROMPT_TOKENS, _OUTPUT_TOKENS = 128, 64
"""Tokens of each request, if the model's context holds as many."""
_ENOUGH_S, _MOST_S = 4.0, 60.0
"""Seconds that each load should take, and the most that the shortest may take; slower models are not checked."""
_MANY = 8
"""Clients of the second load, or two per replica if that is more."""
_LEAST, _MOST = 0.25, 4.0
"""Bounds of all ratios, beyond which a load of a few seconds is not trusted."""


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
class StepsForetold:
    """Predicted seconds of steps, without head and clients."""

    prompt_s: float
    """Seconds of a prompt through all stages."""
    prompt_busy_s: float
    """Seconds of a prompt, summed over all workers."""
    token_s: float
    """Seconds of a step of one row through all stages."""


def check_in_service(
    cluster: PlannedCluster,
    model: str,
    on_progress: Callable[[str], None] = lambda what: None,
    *,
    enough_s: float = _ENOUGH_S,
) -> PlannedCluster:
    """The cluster with the speeds that workers have in service, if all are processors of this machine.

    Args:
        cluster: the planned cluster, with the speeds of its workers by themselves.
        model: the model as the user named it, with weights.
        on_progress: called with what is being measured.
        enough_s: seconds that each of the two loads should take.

    Returns:
        The corrected cluster; `cluster` itself if workers are elsewhere, or so slow that the shortest load would take
        more than a minute.

    Raises:
        WorkerLost: the server does not start.
        ConfigError: the server does not answer.
    """
    if cluster.num_cores is None or any(shard.device is not None for shard in cluster.plan.shards):
        return cluster
    num_replicas = len(cluster.plan.replicas)
    num_many = max(_MANY, 2 * num_replicas)
    lone, many = (_load_of(cluster, clients, enough_s) for clients in (num_replicas, num_many))
    if max(lone.least_s, many.least_s) > _MOST_S:
        return cluster
    on_progress("workers in service, by serving the plan for some seconds")
    with tempfile.TemporaryDirectory(prefix="shoal-plan-") as folder:
        plan_file = Path(folder) / "plan.json"
        plan_file.write_text(write_plan(cluster.plan))
        with serving(model, ("--plan", str(plan_file))) as (url, _):
            seen_lone, outcomes = _run(cluster, url, lone)
            seen_many, _ = _run(cluster, url, many)
    uneven = replace(cluster, unevenness=unevenness_of(moments_of(outcomes, num_replicas)))
    found = compare(
        seen_lone,
        seen_many,
        _foretold(uneven, lone),
        _foretold(uneven, many),
        steps=_steps(cluster, lone),
        num_requests=many.num_requests,
    )
    decode = Curve(rows=(1, num_many // num_replicas), seconds=(found.one_row, found.many_rows))
    prefill = Curve(rows=(1,), seconds=(found.prefill,))
    fleet = cluster.fleet.changed(lambda speed: times_as_long(speed, decode, prefill, decode))
    return replace(uneven, fleet=fleet, in_service=found)


def compare(
    lone: LoadSeen,
    many: LoadSeen,
    foretold_lone: LoadSeen,
    foretold_many: LoadSeen,
    *,
    steps: StepsForetold,
    num_requests: int,
) -> InService:
    """By which factors workers are slower than predicted, from lone clients' latencies and the busy time with many.

    Args:
        lone: the observed load of one client per replica.
        many: the observed load of several clients per replica.
        foretold_lone: the simulation of `lone`.
        foretold_many: the simulation of `many`.
        steps: predicted seconds of steps in the simulations.
        num_requests: requests of `many`.
    """
    prefill = _bounded(1.0 + (lone.first_s - foretold_lone.first_s) / steps.prompt_s)
    one_row = _bounded(1.0 + (lone.token_s - foretold_lone.token_s) / steps.token_s)
    prompts_s = num_requests * steps.prompt_busy_s
    answers_s = foretold_many.busy_s - prompts_s
    many_rows = one_row if answers_s <= 0.0 else _bounded((many.busy_s - prefill * prompts_s) / answers_s)
    return InService(prefill=prefill, one_row=one_row, many_rows=many_rows)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedLoad:
    clients: int
    num_requests: int
    prompt_tokens: int
    output_tokens: int
    least_s: float
    """Seconds of the shortest load, with one request per client."""


def _load_of(cluster: PlannedCluster, clients: int, enough_s: float) -> _PlannedLoad:
    """A load of so many clients that takes about `enough_s`, with its prediction."""
    context = cluster.replicas()[0].config.max_context
    output_tokens = max(2, min(_OUTPUT_TOKENS, context // 4))
    prompt_tokens = max(1, min(_PROMPT_TOKENS, context // 2))
    least = _simulated(cluster, clients, clients, prompt_tokens, output_tokens)
    waves = ceil(enough_s / max(least.duration_s, enough_s / 64.0))
    return _PlannedLoad(
        clients=clients,
        num_requests=clients * waves,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        least_s=least.duration_s,
    )


def _foretold(cluster: PlannedCluster, load: _PlannedLoad) -> LoadSeen:
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


def _run(cluster: PlannedCluster, url: str, load: _PlannedLoad) -> tuple[LoadSeen, Sequence[RequestOutcome]]:
    num_replicas = len(cluster.plan.replicas)
    send(_load(cluster, url, load, num_requests=num_replicas, clients=num_replicas))  # warms up each replica
    before_s = busy_seconds(cluster, url)
    outcomes = send(_load(cluster, url, load, num_requests=load.num_requests, clients=load.clients))
    return seen_of(outcomes, busy_seconds(cluster, url) - before_s), outcomes


def busy_seconds(cluster: PlannedCluster, url: str) -> float:
    """Seconds of computing so far, summed over all workers of a server."""
    (model,) = httpx.get(f"{url}/status", timeout=30.0).json()["models"]
    return sum(
        stage["busy_s"] * len(planned.shards)
        for replica, plan in zip(model["replicas"], cluster.plan.replicas, strict=True)
        for stage, planned in zip(replica["stages"], plan.stages, strict=True)
    )


def _load(cluster: PlannedCluster, url: str, load: _PlannedLoad, *, num_requests: int, clients: int) -> Load:
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


def _steps(cluster: PlannedCluster, load: _PlannedLoad) -> StepsForetold:
    """Predicted seconds of steps of the first replica, while all other replicas have a client, too."""
    times, sizes = cluster.replicas()[0].times, [len(stage.shards) for stage in cluster.plan.replicas[0].stages]
    is_alone = len(cluster.plan.replicas) == 1
    rows, context = load.prompt_tokens, load.prompt_tokens + load.output_tokens // 2
    prompt = times.passage(StepShape(0, 0, rows, rows * (rows + 1) // 2), samples=1, is_alone=is_alone)
    token = times.passage(StepShape(1, context, 0, 0), samples=1, is_alone=is_alone)
    return StepsForetold(
        prompt_s=sum(prompt.stage_s),
        prompt_busy_s=sum(seconds * size for seconds, size in zip(prompt.stage_s, sizes, strict=True)),
        token_s=sum(token.stage_s),
    )


def _bounded(ratio: float) -> float:
    return min(_MOST, max(_LEAST, ratio))

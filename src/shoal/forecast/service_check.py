"""How fast planned workers are while a server uses them: two small loads, foretold and real.

Workers that are timed by themselves have the caches and the cores of their machine to themselves. Beside a head and
clients they are slower, by more than the processor time that these take, and how their speed swings is felt by clients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import fmean

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
"""Of each request, where the model's context holds as many."""
_ENOUGH_S, _MOST_S = 4.0, 60.0
"""How long each load takes by itself, and how long the shortest may: slower models are not looked at."""
_MANY = 8
"""Clients of the second load."""
_LEAST, _MOST = 0.25, 4.0
"""Of any ratio: a load of some seconds is not believed beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeen:
    """A load, foretold or real."""

    first_s: float
    """until the first token, on average"""
    token_s: float
    """from one token to the next, on average"""
    busy_s: float
    """that all workers computed, summed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsForetold:
    """What workers are thought to compute, without anything else."""

    prompt_s: float
    """a prompt, until it is through all stages"""
    prompt_busy_s: float
    """the same summed over all workers"""
    token_s: float
    """a step of one row, until it is through all stages"""


def check_in_service(
    cluster: PlannedCluster,
    model: str,
    on_progress: Callable[[str], None] = lambda what: None,
    *,
    enough_s: float = _ENOUGH_S,
) -> PlannedCluster:
    """The same with the speeds that workers have while they serve, where all are processors of this machine.

    Args:
        cluster: planned, as fast as its workers are by themselves.
        model: as the user named it, with weights.
        on_progress: told what is being measured.
        enough_s: how long each of the two loads should take.

    Returns: `cluster` as it is where its workers are elsewhere, or so slow that some requests take more than a minute.

    Raises:
        WorkerLost: the server does not start.
        ConfigError: it does not answer.
    """
    if cluster.num_cores is None or any(shard.device is not None for shard in cluster.plan.shards):
        return cluster
    lone, many = _load_of(cluster, 1, enough_s), _load_of(cluster, _MANY, enough_s)
    if max(lone.least_s, many.least_s) > _MOST_S:
        return cluster
    on_progress("workers in service, by serving the plan for some seconds")
    with tempfile.TemporaryDirectory() as folder:
        plan_file = Path(folder) / "plan.json"
        plan_file.write_text(write_plan(cluster.plan))
        with serving(model, ("--plan", str(plan_file))) as (url, _):
            seen_lone, outcomes = _run(cluster, url, lone)
            seen_many, _ = _run(cluster, url, many)
    found = compare(
        seen_lone, seen_many, lone.foretold, many.foretold, steps=_steps(cluster, lone), num_requests=many.num_requests
    )
    rows = max(2, _MANY // len(cluster.plan.replicas))
    decode = Curve(rows=(1, rows), seconds=(found.one_row, found.many_rows))
    prefill = Curve(rows=(1,), seconds=(found.prefill,))
    return replace(
        cluster,
        fleet=cluster.fleet.changed(lambda speed: times_as_long(speed, decode, prefill, decode)),
        in_service=found,
        unevenness=unevenness_of(moments_of(outcomes)),
    )


def compare(
    lone: LoadSeen,
    many: LoadSeen,
    foretold_lone: LoadSeen,
    foretold_many: LoadSeen,
    *,
    steps: StepsForetold,
    num_requests: int,
) -> InService:
    """By what workers are slower than was foretold, from one client's latencies and from how long many kept them busy.

    Args:
        lone: one client after the other, as it was seen.
        many: several at once, as it was seen.
        foretold_lone: the same load simulated.
        foretold_many: the same load simulated.
        steps: what workers computed in the simulations.
        num_requests: of `many`.
    """
    prefill = _bounded(1.0 + (lone.first_s - foretold_lone.first_s) / steps.prompt_s)
    one_row = _bounded(1.0 + (lone.token_s - foretold_lone.token_s) / steps.token_s)
    prompts_s = num_requests * steps.prompt_busy_s
    answers_s = foretold_many.busy_s - prompts_s
    many_rows = one_row if answers_s <= 0.0 else _bounded((many.busy_s - prefill * prompts_s) / answers_s)
    return InService(prefill=prefill, one_row=one_row, many_rows=many_rows)


def moments_of(outcomes: Sequence[RequestOutcome]) -> list[TimedMoment]:
    """What one client waited for, token by token."""
    moments: list[TimedMoment] = []
    for one in sorted(outcomes, key=lambda outcome: outcome.started_s):
        times_s = (one.started_s, *one.arrivals_s)
        for index, (begun_s, done_s) in enumerate(pairwise(times_s)):
            if done_s > begun_s:
                moments.append(TimedMoment(index == 0, done_s - begun_s, done_s - begun_s))
    return moments


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedLoad:
    clients: int
    num_requests: int
    prompt_tokens: int
    output_tokens: int
    least_s: float
    """that as few requests as clients take"""
    foretold: LoadSeen


def _load_of(cluster: PlannedCluster, clients: int, enough_s: float) -> _PlannedLoad:
    """A load of so many clients that takes about long enough, and what is foretold of it."""
    context = cluster.replicas()[0].config.max_context
    output_tokens = max(2, min(_OUTPUT_TOKENS, context // 4))
    prompt_tokens = max(1, min(_PROMPT_TOKENS, context // 2))
    least = _simulated(cluster, clients, clients, prompt_tokens, output_tokens)
    waves = ceil(enough_s / max(least.duration_s, enough_s / 64.0))
    outcome = _simulated(cluster, clients, clients * waves, prompt_tokens, output_tokens)
    return _PlannedLoad(
        clients=clients,
        num_requests=clients * waves,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        least_s=least.duration_s,
        foretold=LoadSeen(
            first_s=outcome.ttft.p50_s,
            token_s=outcome.tpot.p50_s,
            busy_s=worker_seconds(cluster, outcome),
        ),
    )


def worker_seconds(cluster: PlannedCluster, outcome: SimulationOutcome) -> float:
    """That all workers computed in a simulation, summed."""
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
    send(_load(cluster, url, load, num_requests=num_replicas, clients=num_replicas))  # a cold start of each
    before_s = busy_seconds(cluster, url)
    outcomes = send(_load(cluster, url, load, num_requests=load.num_requests, clients=load.clients))
    gaps_s = [(one.arrivals_s[-1] - one.arrivals_s[0]) / max(1, one.output_tokens - 1) for one in outcomes]
    seen = LoadSeen(
        first_s=fmean(one.arrivals_s[0] - one.started_s for one in outcomes),
        token_s=fmean(gaps_s),
        busy_s=busy_seconds(cluster, url) - before_s,
    )
    return seen, outcomes


def busy_seconds(cluster: PlannedCluster, url: str) -> float:
    """That all workers of a server have computed, summed."""
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
    """Of the first replica."""
    times, sizes = cluster.replicas()[0].times, [len(stage.shards) for stage in cluster.plan.replicas[0].stages]
    rows, context = load.prompt_tokens, load.prompt_tokens + load.output_tokens // 2
    prompt = times.passage(StepShape(0, 0, rows, rows * (rows + 1) // 2), samples=1, is_alone=True)
    token = times.passage(StepShape(1, context, 0, 0), samples=1, is_alone=True)
    return StepsForetold(
        prompt_s=sum(prompt.stage_s),
        prompt_busy_s=sum(seconds * size for seconds, size in zip(prompt.stage_s, sizes, strict=True)),
        token_s=sum(token.stage_s),
    )


def _bounded(ratio: float) -> float:
    return min(_MOST, max(_LEAST, ratio))

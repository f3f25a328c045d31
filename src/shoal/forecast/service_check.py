"""The speed of planned workers while a server uses them: two small loads, predicted and real.

Workers that are timed by themselves have the caches and cores of their machine to themselves. Beside a head and clients
they are slower, by more than the processor time that these take, and clients notice how their speed varies.

The first load has one client per replica, so the waits of a client show the speed of one replica; the second load has
several. Both are predicted with the observed unevenness, and compared by what a typical request took.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shoal.core.speed.step_times import StepShape
from shoal.forecast.planned_cluster import InService, PlannedCluster
from shoal.forecast.service_loads import LoadSeen, PlannedLoad, foretold, moments_of, plan_load, put_on
from shoal.forecast.serving_times import serving
from shoal.planner.files.plan_file import write_plan
from shoal.planner.speeds.drift import times_as_long
from shoal.planner.speeds.speeds import Curve
from shoal.planner.speeds.unevenness import unevenness_of

_LONE_OUTPUT_TOKENS, _OUTPUT_TOKENS = 16, 64
"""Tokens of each answer. Lone clients ask for few, so that there are enough prompts for a median: 15 in four seconds of
SmolLM2 in two stages, where 64 tokens leave room for five."""
_ENOUGH_S, _MOST_S = 4.0, 60.0
"""Seconds that each load should take, and the most that the shortest may take; slower models are not checked."""
_MANY = 8
"""Clients of the second load, or two per replica if that is more."""
_LEAST, _MOST = 0.25, 4.0
"""Bounds of all ratios, beyond which a load of a few seconds is not trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsForetold:
    """Predicted seconds of steps, without head and clients."""

    prompt_s: float
    """Seconds by which a lone request's first token comes later if prompts take twice as long. In a pipeline that is
    less than their time in all stages, because the pieces of a prompt overlap."""
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
    lone = plan_load(cluster, num_replicas, _LONE_OUTPUT_TOKENS, enough_s)
    many = plan_load(cluster, num_many, _OUTPUT_TOKENS, enough_s)
    if max(lone.least_s, many.least_s) > _MOST_S:
        return cluster
    on_progress("workers in service, by serving the plan for some seconds")
    with tempfile.TemporaryDirectory(prefix="shoal-plan-") as folder:
        plan_file = Path(folder) / "plan.json"
        plan_file.write_text(write_plan(cluster.plan))
        with serving(model, ("--plan", str(plan_file))) as (url, _):
            seen_lone, outcomes = put_on(cluster, url, lone)
            seen_many, _ = put_on(cluster, url, many)
    uneven = replace(cluster, unevenness=unevenness_of(moments_of(outcomes, num_replicas)))
    found = compare(
        seen_lone,
        seen_many,
        foretold(uneven, lone),
        foretold(uneven, many),
        steps=steps_of(cluster, lone),
        num_requests=many.num_requests,
    )
    decode = Curve(rows=(1, num_many // num_replicas), seconds=(found.one_row, found.many_rows))
    return replace(slowed(uneven, decode, found.prefill), in_service=found)


def slowed(cluster: PlannedCluster, decode: Curve, prefill: float) -> PlannedCluster:
    """The cluster with other speeds. `decode`: factors by output rows. `prefill`: the factor of prompt rows."""
    prompts = Curve(rows=(1,), seconds=(prefill,))
    return replace(cluster, fleet=cluster.fleet.changed(lambda speed: times_as_long(speed, decode, prompts, decode)))


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


def steps_of(cluster: PlannedCluster, load: PlannedLoad) -> StepsForetold:
    """Predicted seconds of steps of the first replica, while all other replicas have a client, too.

    Args:
        cluster: the cluster, whose replicas are even.
        load: one client per replica.
    """
    as_predicted = Curve(rows=(1,), seconds=(1.0,))
    first_s, later_s = (foretold(one, load).first_s for one in (cluster, slowed(cluster, as_predicted, 2.0)))
    times, sizes = cluster.replicas()[0].times, [len(stage.shards) for stage in cluster.plan.replicas[0].stages]
    is_alone = len(cluster.plan.replicas) == 1
    rows, context = load.prompt_tokens, load.prompt_tokens + load.output_tokens // 2
    prompt = times.passage(StepShape(0, 0, rows, rows * (rows + 1) // 2), samples=1, is_alone=is_alone)
    token = times.passage(StepShape(1, context, 0, 0), samples=1, is_alone=is_alone)
    return StepsForetold(
        prompt_s=later_s - first_s,
        prompt_busy_s=sum(seconds * size for seconds, size in zip(prompt.stage_s, sizes, strict=True)),
        token_s=sum(token.stage_s),
    )


def _bounded(ratio: float) -> float:
    return min(_MOST, max(_LEAST, ratio))

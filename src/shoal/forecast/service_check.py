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
class Sensitivity:
    """By how many seconds the loads take longer in a simulation if a part of the work takes twice as long.

    That is less than the seconds of this part: the pieces of a prompt overlap in a pipeline, and what shards exchange
    takes as long as before.
    """

    prompt_s: float
    """The first token of a lone client's request, by prompt rows."""
    token_s: float
    """A lone client's token, by output rows."""
    prompt_busy_s: float
    """Computing under the load of many clients, by prompt rows."""
    answer_busy_s: float
    """Computing under the load of many clients, by output rows."""


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
        sensitivity_of(cluster, lone, many),
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
    sensitivity: Sensitivity,
) -> InService:
    """By which factors workers are slower than predicted, from lone clients' latencies and the busy time with many.

    Args:
        lone: the observed load of one client per replica.
        many: the observed load of several clients per replica.
        foretold_lone: the simulation of `lone`.
        foretold_many: the simulation of `many`.
        sensitivity: of the simulations.
    """
    prefill = _bounded(1.0 + (lone.first_s - foretold_lone.first_s) / sensitivity.prompt_s)
    one_row = _bounded(1.0 + (lone.token_s - foretold_lone.token_s) / sensitivity.token_s)
    answers_s = many.busy_s - foretold_many.busy_s - (prefill - 1.0) * sensitivity.prompt_busy_s
    many_rows = _bounded(1.0 + answers_s / sensitivity.answer_busy_s)
    return InService(prefill=prefill, one_row=one_row, many_rows=many_rows)


def sensitivity_of(cluster: PlannedCluster, lone: PlannedLoad, many: PlannedLoad) -> Sensitivity:
    """How the times of both loads depend on a cluster's speeds.

    Args:
        cluster: the cluster, whose replicas are even.
        lone: one client per replica.
        many: several clients per replica.
    """
    once, twice = (Curve(rows=(1,), seconds=(factor,)) for factor in (1.0, 2.0))
    prompts, answers = slowed(cluster, once, 2.0), slowed(cluster, twice, 1.0)
    lone_s, many_s = foretold(cluster, lone), foretold(cluster, many)
    return Sensitivity(
        prompt_s=foretold(prompts, lone).first_s - lone_s.first_s,
        token_s=foretold(answers, lone).token_s - lone_s.token_s,
        prompt_busy_s=foretold(prompts, many).busy_s - many_s.busy_s,
        answer_busy_s=foretold(answers, many).busy_s - many_s.busy_s,
    )


def _bounded(ratio: float) -> float:
    return min(_MOST, max(_LEAST, ratio))

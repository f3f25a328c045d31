"""The choice of a split for a graph over several machines: the best of each kind is searched for and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from shoal.errors import CapacityError
from shoal.planner.choice.compare import compare
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.groups import Group, make_groups
from shoal.planner.graph_choice.choice import GraphChoice, nearest_to_target
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.graph_choice.fleet_candidate import FleetCandidate, make_fleet_candidate
from shoal.planner.graph_choice.fleet_costs import FleetCosts
from shoal.planner.memory.fit import format_bytes
from shoal.planner.search.pipeline import Pipeline
from shoal.planner.search.problem import ReplicaProblem
from shoal.planner.search.replica import best_replica
from shoal.planner.search.replicas import best_replicas

MOST_SHARDS = 8
"""The most shards of one stage. A graph's shards wait for each other at every exchange; between machines more never
pay."""


def choose_graph_fleet(fleet: GraphFleet, goal: Goal) -> GraphChoice[FleetCandidate]:
    """Compare every kind of split.

    Raises:
        CapacityError: the graph fits nowhere. The message says what is missing.
        ConfigError: no split meets the latency target. The message names the nearest one.
    """
    costs = FleetCosts(fleet, graph_groups(fleet))
    problem, num_workers = costs.problem(), sum(fleet.counts)
    several = best_replicas(problem, num_workers)
    found = [several.pipelines, *_searches(problem, num_workers)]
    candidates = [make_fleet_candidate(costs, pipelines) for pipelines in found if pipelines]
    if not candidates:
        raise CapacityError(_too_large(fleet))
    compared = compare(
        candidates,
        goal,
        unit="a micro-batch",
        nearest=lambda one: nearest_to_target(one, goal),
        why_none=lambda kind: "none fits, or none is better than a simpler kind",
    )
    bound = fleet.rows * several.bound_streams_per_s
    return GraphChoice(
        best=compared.best,
        alternatives=compared.alternatives,
        bound_rows_per_s=max(bound, *(one.prediction.rows_per_s for one in candidates)),
    )


def graph_groups(fleet: GraphFleet) -> tuple[Group, ...]:
    """The groups of machines that may hold a stage; only single machines if no part of the graph can be split."""
    is_divisible = fleet.shard_work(2) is not None
    return make_groups(fleet.counts, ("auto",), max_shards=MOST_SHARDS if is_divisible else 1)


def _searches(problem: ReplicaProblem, num_workers: int) -> Iterator[Sequence[Pipeline]]:
    """Search for the fastest worker and whole copies and, as a single replica, alone and under load, for the best
    pipeline, group and split of any kind."""
    single = problem.restricted(single_workers=True, max_stages=1)
    yield _alone(best_replica(single, 1))
    if num_workers == 1:
        return
    yield best_replicas(single, num_workers).pipelines
    groups = replace(problem, max_stages=1, usable=tuple(sum(group) > 1 for group in problem.groups))
    for one in (problem.restricted(single_workers=True).without_whole_stages(), groups, problem):
        for num_streams in sorted({1, min(num_workers, problem.num_blocks)}):
            yield _alone(best_replica(one, num_streams))


def _alone(pipeline: Pipeline | None) -> Sequence[Pipeline]:
    return () if pipeline is None else (pipeline,)


def _too_large(fleet: GraphFleet) -> str:
    needed = fleet.weight_bytes(0, fleet.num_nodes)
    available = sum(one.count * one.memory_bytes for one in fleet.classes)
    text = f"{fleet.model} needs {format_bytes(needed)} for its weights; these machines have {format_bytes(available)}"
    if needed > available:
        return f"{text}, so {format_bytes(needed - available)} are missing"
    return f"{text}, but in pieces too small for where the graph can be cut"

"""The best use of machines that join while a plan for a graph runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from shoal.planner.choice.extend import Extension, best_extension, counts_of
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.graph_choice.fleet_candidate import (
    FleetCandidate,
    GraphReplica,
    cut_pipeline,
    predict_replicas,
)
from shoal.planner.graph_choice.fleet_choose import graph_groups
from shoal.planner.graph_choice.fleet_costs import FleetCosts
from shoal.planner.search.replica import best_replica


def extend_graph(
    present: tuple[GraphReplica, ...],
    fleet: GraphFleet,
    *,
    idle: Sequence[int],
    open_replicas: Collection[int],
    goal: Goal,
) -> Extension[FleetCandidate] | None:
    """Find the best use of idle machines; None if no use pays.

    Args:
        present: the running replicas.
        fleet: the workers of `present` and the idle ones, in classes of one worker each.
        idle: classes of the idle workers.
        open_replicas: indices of replicas that may be split again.
        goal: the goal by which plans are compared.
    """
    costs = FleetCosts(fleet, graph_groups(fleet))

    def make(workers: Collection[int], num_replicas: int) -> GraphReplica | None:
        """The better one of the replicas that are best alone and under load."""
        problem = replace(costs.problem(), counts=counts_of(workers, len(fleet.classes)))
        found = [
            cut_pipeline(costs, pipeline)
            for num_streams in sorted({1, min(len(workers), problem.num_blocks)})
            if (pipeline := best_replica(problem, num_streams)) is not None
        ]
        return max(found, key=lambda replica: predict_replicas(fleet, (replica,)).score(goal), default=None)

    return best_extension(
        present,
        idle=idle,
        open_replicas=open_replicas,
        goal=goal,
        make=make,
        predict=lambda replicas: predict_replicas(fleet, replicas),
    )

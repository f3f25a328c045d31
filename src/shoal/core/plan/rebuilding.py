"""Copies of plans with other placements of their workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan
from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.core.plan.placement import WorkerPlacement

PlanT = TypeVar("PlanT", bound=Plan | GraphPlan)
ReplicaT = TypeVar("ReplicaT", bound=ReplicaPlan | GraphReplicaPlan)


def with_placements(plan: PlanT, placements: Iterable[WorkerPlacement]) -> PlanT:
    """The same plan with other placements.

    Args:
        plan: a plan of either kind.
        placements: one for each worker: replica by replica, stage by stage, rank by rank.
    """
    rest = iter(placements)
    replicas = tuple(_moved_replica(replica, rest) for replica in plan.replicas)
    return replace(plan, replicas=replicas)


def moved_replica(replica: ReplicaT, place: WorkerPlacement) -> ReplicaT:
    """A replica of a single worker with another placement."""
    assert len(replica.shards) == 1
    return _moved_replica(replica, iter([place]))


def _moved_replica(replica: Any, rest: Any) -> Any:
    return replace(
        replica,
        stages=tuple(
            replace(stage, shards=tuple(replace(shard, **next(rest).placement()) for shard in stage.shards))
            for stage in replica.stages
        ),
    )

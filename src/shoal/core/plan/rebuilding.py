"""A plan with other workers in the places of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan
from shoal.core.plan.placement import WorkerPlacement

PlanT = TypeVar("PlanT", bound=Plan | GraphPlan)


def with_placements(plan: PlanT, placements: Iterable[WorkerPlacement]) -> PlanT:
    """The same plan with its workers elsewhere.

    Args:
        plan: of either kind.
        placements: one for each worker, replica by replica, stage by stage, rank by rank.
    """
    rest = iter(placements)
    replicas = tuple(_moved_replica(replica, rest) for replica in plan.replicas)
    return replace(plan, replicas=replicas)


def _moved_replica(replica: Any, rest: Any) -> Any:
    return replace(
        replica,
        stages=tuple(
            replace(stage, shards=tuple(replace(shard, **next(rest).placement()) for shard in stage.shards))
            for stage in replica.stages
        ),
    )

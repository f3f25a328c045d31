"""Where the workers of a split that was said by hand sit, if there are several machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan
from shoal.core.plan.placement import WorkerPlacement
from shoal.planner.split.cores import deal_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCores:
    """One machine."""

    name: str
    cores: tuple[int, ...]
    """CPU ids that workers may use there"""


_Place = tuple[str, int, tuple[int, ...]]
"""machine, threads, CPU ids"""
_PlanT = TypeVar("_PlanT", bound=Plan | GraphPlan)
_ShardT = TypeVar("_ShardT", bound=WorkerPlacement)


def place_on_machines(plan: _PlanT, machines: Sequence[MachineCores], threads: int | None) -> _PlanT:
    """Deal a plan's workers to machines, in order: neighbors share a machine as far as the machines allow.

    Args:
        plan: whose workers have no machine.
        machines: at least one; the first are used where there are fewer workers.
        threads: of each worker; None: each machine's cores divided by its workers.

    Raises:
        ConfigError: fewer than one thread.
    """
    used = machines[: plan.num_workers]
    owners = [used[worker * len(used) // plan.num_workers] for worker in range(plan.num_workers)]
    counts = Counter(owner.name for owner in owners)
    dealt = {one.name: deal_cores(one.cores, counts[one.name], threads) for one in used}
    cores = {name: iter(pinned) for name, (_, pinned) in dealt.items()}
    places = iter([(owner.name, dealt[owner.name][0], next(cores[owner.name])) for owner in owners])
    replicas = [
        replace(
            replica,
            stages=tuple(replace(stage, shards=tuple(_placed(stage.shards, places))) for stage in replica.stages),
        )
        for replica in plan.replicas
    ]
    return replace(plan, replicas=tuple(replicas))


def _placed(shards: Sequence[_ShardT], places: Iterator[_Place]) -> Iterator[_ShardT]:
    for shard in shards:
        machine, threads, cores = next(places)
        yield replace(shard, machine=machine, threads=threads, cores=cores)

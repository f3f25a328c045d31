"""The machines of the workers in a split that the user gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.core.plan.rebuilding import PlanT, with_placements
from shoal.planner.split.cores import deal_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCores:
    """A machine and its cores for workers."""

    name: str
    cores: tuple[int, ...]
    """CPU ids that workers may use there."""


def place_on_machines(plan: PlanT, machines: Sequence[MachineCores], threads: int | None) -> PlanT:
    """Assign a plan's workers to machines in order, so that neighbors share a machine where possible.

    Args:
        plan: a plan whose workers have no machine yet.
        machines: at least one; with fewer workers only the first ones are used.
        threads: threads of each worker; None: each machine's cores divided by its workers.

    Raises:
        ConfigError: `threads` is less than 1.
    """
    used = machines[: plan.num_workers]
    owners = [used[worker * len(used) // plan.num_workers] for worker in range(plan.num_workers)]
    counts = Counter(owner.name for owner in owners)
    dealt = {one.name: deal_cores(one.cores, counts[one.name], threads) for one in used}
    cores = {name: iter(pinned) for name, (_, pinned) in dealt.items()}
    places = [
        WorkerPlacement(machine=owner.name, threads=dealt[owner.name][0], cores=next(cores[owner.name]))
        for owner in owners
    ]
    return with_placements(plan, places)

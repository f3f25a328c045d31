"""Where the workers of a split that was said by hand sit, if there are several machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.core.plan.rebuilding import PlanT, with_placements
from shoal.planner.split.cores import deal_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCores:
    """One machine."""

    name: str
    cores: tuple[int, ...]
    """CPU ids that workers may use there"""


def place_on_machines(plan: PlanT, machines: Sequence[MachineCores], threads: int | None) -> PlanT:
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
    places = [
        WorkerPlacement(machine=owner.name, threads=dealt[owner.name][0], cores=next(cores[owner.name]))
        for owner in owners
    ]
    return with_placements(plan, places)

"""What a person hears of a plan before it is launched, whatever kind of model it is for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shoal.cli.shared.log import announce
from shoal.core.plan.placement import WorkerPlacement
from shoal.machines.machines import Machines
from shoal.planner.split.cores import thread_warnings


def note_left_out(machines: Machines | None) -> None:
    """Say which machines of the cluster the plan does not count on."""
    for name, what in ({} if machines is None else machines.troubles()).items():
        announce(f"warning: machine {name} {what}; going on without it")


def note_threads(workers: Sequence[WorkerPlacement]) -> None:
    """Say which numbers of threads are likely not meant, of the workers on this machine."""
    threads = [worker.threads for worker in workers if worker.machine is None]
    for warning in thread_warnings(threads, len(os.sched_getaffinity(0))):
        announce(f"warning: {warning}")

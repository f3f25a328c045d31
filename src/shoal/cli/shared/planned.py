"""What a person hears of a plan, before it is launched or in the place of that, whatever kind of model it is for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from shoal.cli.shared.log import announce
from shoal.cli.show.output import note, print_json
from shoal.core.plan.placement import WorkerPlacement
from shoal.launch.planned import AutoT, Planned, PlanT
from shoal.machines.machines import Machines
from shoal.out_files import whole_file
from shoal.planner.split.cores import thread_warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView(Generic[PlanT, AutoT]):
    """How plans of one kind of model are shown."""

    print_plan: Callable[[PlanT], None]
    """a table of the workers"""
    print_choice: Callable[[AutoT], None]
    """what was chosen, and what is expected of it"""
    print_explanation: Callable[[AutoT], None]
    """a table of what else there was to choose from"""
    choice_dict: Callable[[AutoT], dict[str, Any]]
    """all of it as plain data"""


def show_plan(planned: Planned[PlanT, AutoT], view: PlanView[PlanT, AutoT], *, quiet: bool) -> None:
    """The plan and why it was chosen, unless `quiet`, and what is likely not meant; before it is launched."""
    if not quiet:
        view.print_plan(planned.plan)
        if planned.auto is not None:
            view.print_choice(planned.auto)
    note_left_out(planned.machines)
    note_threads(planned.plan.shards)


def report_choice(
    planned: Planned[PlanT, AutoT],
    view: PlanView[PlanT, AutoT],
    *,
    output: Path | None,
    explain: bool,
    as_json: bool,
) -> None:
    """Show a chosen plan that is not launched, and close it.

    Args:
        planned: with what it was chosen from.
        view: of its kind.
        output: the file to write it to, for `--plan`; None: none.
        explain: whether to show what else there was to choose from.
        as_json: one object on stdout, in the place of everything else.

    Raises:
        CapacityError: the file cannot be written.
    """
    note_left_out(planned.machines)
    planned.close()
    auto = planned.auto
    assert auto is not None
    if output is not None:
        from shoal.planner.files.plan_file import write_plan  # needs YAML

        with whole_file(output) as file:
            file.write(write_plan(planned.plan).encode())
    if as_json:
        print_json(view.choice_dict(auto))
        return
    view.print_plan(planned.plan)
    view.print_choice(auto)
    if explain:
        view.print_explanation(auto)
    if output is not None:
        note(f"written to {output}; run it with --plan {output}")


def note_left_out(machines: Machines | None) -> None:
    """Say which machines of the cluster the plan does not count on."""
    for name, what in ({} if machines is None else machines.troubles()).items():
        announce(f"warning: machine {name} {what}; continuing without it")


def note_threads(workers: Sequence[WorkerPlacement]) -> None:
    """Say which numbers of threads are likely not meant, of the workers on this machine."""
    threads = [worker.threads for worker in workers if worker.machine is None and worker.device is None]
    for warning in thread_warnings(threads, len(os.sched_getaffinity(0))):
        announce(f"warning: {warning}")

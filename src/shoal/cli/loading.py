"""Load a model for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

import os

from shoal.cli.output import note, print_plan, progress_bar
from shoal.cluster.launch import LoadedModel, launch, plan_model
from shoal.config import LaunchConfig
from shoal.planner.cores import thread_warnings


def load_model(config: LaunchConfig, *, quiet: bool = False) -> LoadedModel:
    """The loaded model; close it. `quiet` prints no plan, only warnings."""
    planned = plan_model(config)
    if not quiet:
        print_plan(planned.plan)
    threads = [shard.threads for replica in planned.plan.replicas for shard in replica.shards]
    for warning in thread_warnings(threads, len(os.sched_getaffinity(0))):
        note(f"warning: {warning}")
    with progress_bar("loading") as update:
        return launch(planned, update)

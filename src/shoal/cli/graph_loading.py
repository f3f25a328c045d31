"""Load an ONNX graph for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

import os

from shoal.cli.graph_output import print_graph_plan
from shoal.cli.graph_plan_output import print_graph_choice
from shoal.cli.output import measuring, note, progress_bar
from shoal.cluster.graph_launch import LoadedGraph, launch_graph
from shoal.cluster.graph_planning import PlannedGraph, plan_graph
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError
from shoal.model.graph.graph_file import GraphFile
from shoal.planner.cores import thread_warnings
from shoal.router.graph_executor import Tensors


def load_graph(
    config: GraphLaunchConfig,
    *,
    quiet: bool = False,
    sample: Tensors | None = None,
    graph: GraphFile | None = None,
) -> LoadedGraph:
    """The loaded graph; close it. `quiet` prints no plan, only warnings; `graph`: the file, if it is open already."""
    planned = plan_for_command(config, sample, graph, quiet=quiet)
    show_plan(planned, quiet=quiet)
    with progress_bar("loading") as update:
        return launch_graph(planned, update)


def plan_for_command(
    config: GraphLaunchConfig, sample: Tensors | None = None, graph: GraphFile | None = None, *, quiet: bool
) -> PlannedGraph:
    """The planned graph; says when it measures, unless `quiet`."""
    with measuring(quiet=quiet) as tell:
        return plan_graph(config, sample, graph, on_progress=tell)


def show_plan(planned: PlannedGraph, *, quiet: bool) -> None:
    """The plan and why it was chosen, unless `quiet`, and what is likely not meant."""
    if not quiet:
        print_graph_plan(planned.plan)
        if planned.auto is not None:
            print_graph_choice(planned.auto)
    threads = [shard.threads for replica in planned.plan.replicas for shard in replica.shards]
    for warning in thread_warnings(threads, len(os.sched_getaffinity(0))):
        note(f"warning: {warning}")


def parse_batch_dims(items: list[str]) -> dict[str, int]:
    """`--batch-dim name=axis`, repeated. Raises ConfigError."""
    axes: dict[str, int] = {}
    for item in items:
        name, _, axis = item.rpartition("=")
        if not name or not axis.removeprefix("-").isdecimal():
            raise ConfigError(f"--batch-dim {item}: give NAME=AXIS, such as state=1")
        axes[name] = int(axis)
    return axes

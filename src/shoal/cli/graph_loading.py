"""Load an ONNX graph for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

import os

from shoal.cli.graph_output import print_graph_plan
from shoal.cli.output import note, progress_bar
from shoal.cluster.graph_launch import LoadedGraph, launch_graph, plan_graph
from shoal.config import GraphLaunchConfig
from shoal.core.graph_plan import GraphPlan
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
    planned = plan_graph(config, sample, graph)
    show_plan(planned.plan, quiet=quiet)
    with progress_bar("loading") as update:
        return launch_graph(planned, update)


def show_plan(plan: GraphPlan, *, quiet: bool) -> None:
    """The plan, unless `quiet`, and what is likely not meant."""
    if not quiet:
        print_graph_plan(plan)
    threads = [shard.threads for replica in plan.replicas for shard in replica.shards]
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

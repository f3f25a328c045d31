"""Graphs that are loaded for whatever has many rows for them: chains, and encoders of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.machines.opening import SharedMachines


def row_graph_loader(
    split: str, threads: int | None, cluster: str | None = None, shared: SharedMachines | None = None
) -> Callable[[Path], LoadedGraph]:
    """What plans a graph for the most rows a second, and starts its workers.

    Args:
        split: see `shoal.load`.
        threads: compute threads per worker; None shares the machine's cores evenly.
        cluster: see `PlanningConfig.cluster`.
        shared: opens the machines of a cluster; None: there is none.
    """

    def load(path: Path) -> LoadedGraph:
        planning = PlanningConfig(objective="throughput", cluster=cluster)
        config = GraphLaunchConfig(model=str(path), split=split, threads=threads, planning=planning, in_process=False)
        return launch_graph(plan_graph(config, machines=None if shared is None else shared.open(cluster, path)))

    return load

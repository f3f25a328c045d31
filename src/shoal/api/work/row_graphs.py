"""Graphs that are loaded for whatever has many rows for them: chains, and encoders of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph


def row_graph_loader(split: str, threads: int | None) -> Callable[[Path], LoadedGraph]:
    """What plans a graph for the most rows a second, and starts its workers.

    Args:
        split: see `shoal.load`.
        threads: compute threads per worker; None shares the machine's cores evenly.
    """

    def load(path: Path) -> LoadedGraph:
        planning = PlanningConfig(objective="throughput")
        config = GraphLaunchConfig(model=str(path), split=split, threads=threads, planning=planning, in_process=False)
        return launch_graph(plan_graph(config))

    return load

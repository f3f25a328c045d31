"""From a planned ONNX graph to running replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.cluster.graph_in_process import InProcessGraphExecutor
from shoal.cluster.graph_planning import PlannedGraph
from shoal.cluster.graph_replicas import start_replicas
from shoal.core.graph_plan import GraphPlan
from shoal.router.graph_executor import GraphExecutor, Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGraph:
    """Replicas that are ready for batches. Close it."""

    plan: GraphPlan
    executors: Sequence[GraphExecutor]
    """one a replica"""
    sample: Tensors
    """a small valid input"""

    def __enter__(self) -> LoadedGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all workers. Idempotent."""
        for executor in self.executors:
            executor.close()


def launch_graph(planned: PlannedGraph, on_progress: Callable[[int, int], None] | None = None) -> LoadedGraph:
    """Start the workers of a plan and load their stages; `on_progress(done, total)` counts workers.

    Raises:
        ModelLoadError: a stage cannot be loaded.
        WorkerLost: a worker died while loading.
    """
    plan = planned.plan
    if planned.whole is not None:
        return LoadedGraph(plan=plan, executors=(InProcessGraphExecutor(planned.whole),), sample=planned.sample)
    loaded = 0

    def count() -> None:
        nonlocal loaded
        loaded += 1
        if on_progress is not None:
            on_progress(loaded, plan.num_workers)

    return LoadedGraph(
        plan=plan, executors=start_replicas(planned.graph.path, plan.replicas, count), sample=planned.sample
    )

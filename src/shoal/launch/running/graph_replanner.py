"""`--replan` for ONNX graphs: a pipeline whose workers have changed speed gets other nodes, if the move pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan
from shoal.core.speed.replan import ReplanWatch
from shoal.launch.running.pipeline_replanner import PipelineReplanner
from shoal.launch.running.running_plan import RunningPlan
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.cuts import cut_places
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.sample.node_times import NodeTimes, estimate_nodes
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.graph_cut import CutPlace
from shoal.planner.graph_move import recut
from shoal.router.batch_stats import BatchStats


class GraphReplanner(PipelineReplanner[GraphPlan, GraphReplicaPlan, BatchStats]):
    """Moves nodes between the stages of a graph."""

    def __init__(
        self,
        running: RunningPlan[GraphPlan, GraphReplicaPlan, BatchStats],
        graph: GraphFile,
        clock: Callable[[], float],
        times: NodeTimes | None = None,
    ) -> None:
        """
        Args:
            running: the plan and its engine.
            graph: the file that the engine runs.
            clock: gives monotonic seconds.
            times: the times of the graph's nodes; None: they were not measured.
        """
        super().__init__(running, clock)
        self._graph, self._times = graph, times

    def num_requests(self, stats: BatchStats, index: int) -> float:
        """See `PipelineReplanner.num_requests`. Replicas share all requests."""
        return stats.num_requests / max(1, stats.num_replicas)

    def consider(self, index: int, watched: ReplanWatch, stage_s: Sequence[float], now_s: float) -> None:
        """See `PipelineReplanner.consider`."""
        replica = self._running.plan.replicas[index]
        boundaries = [stage.first_node for stage in replica.stages[1:]]
        best = recut(self._node_s, self._places, boundaries, stage_s)
        move = watched.weigh(stage_s, best.stage_s, now_s)
        fits_beside = weight_bytes(self._graph, 0, self._graph.num_nodes) < free_memory_bytes()
        if not (move.pays and fits_beside):
            return
        moved = _with_boundaries(self._graph, replica, best.boundaries)
        before, after = (", ".join(str(stage.first_node) for stage in one.stages[1:]) for one in (replica, moved))
        change = f"cutting at node {after} instead of {before}; batches should take {move.gain:.0%} less time"
        self.move(index, moved, "nodes", change)

    @cached_property
    def _node_s(self) -> Sequence[float]:
        return estimate_nodes(self._graph) if self._times is None else self._times.seconds

    @cached_property
    def _places(self) -> Sequence[CutPlace]:
        return cut_places(self._graph, self._times)


def _with_boundaries(graph: GraphFile, replica: GraphReplicaPlan, boundaries: Sequence[int]) -> GraphReplicaPlan:
    """The replica with the same workers, one per stage, and other nodes."""
    return GraphReplicaPlan(
        stages=tuple(
            replace(
                stage,
                first_node=interface.first_node,
                last_node=interface.last_node,
                inputs=interface.inputs,
                outputs=interface.outputs,
                shards=tuple(
                    replace(shard, weight_bytes=weight_bytes(graph, interface.first_node, interface.last_node))
                    for shard in stage.shards
                ),
                compute_s=None,
            )
            for stage, interface in zip(replica.stages, stage_interfaces(graph, boundaries), strict=True)
        )
    )

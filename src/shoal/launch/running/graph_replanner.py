"""`--replan` for ONNX graphs: a pipeline whose workers have changed speed gets other nodes, where the move pays."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan
from shoal.core.speed.replan import LOOK_S, ReplanWatch
from shoal.errors import ModelChanged, ShoalError
from shoal.launch.running.running_plan import RunningPlan
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.cuts import cut_places
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.sample.node_times import NodeTimes, estimate_nodes
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.graph_cut import CutPlace
from shoal.planner.graph_move import Recut, recut
from shoal.router.batch_stats import BatchStats

_logger = logging.getLogger("shoal.launch")


class GraphReplanner:
    """Looks at the engine's figures now and then. Belongs to the engine's thread."""

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
            clock: monotonic seconds.
            times: of the graph's nodes, where they were measured.
        """
        self._running, self._graph = running, graph
        self._clock, self._times = clock, times
        self._watched: defaultdict[int, ReplanWatch] = defaultdict(ReplanWatch)
        self._next_s = clock() + LOOK_S

    def look(self) -> None:
        """To be called often; does something every few seconds."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        stats = self._running.stats()
        num_requests = stats.num_requests / max(1, stats.num_replicas)
        for index, replica in enumerate(self._running.plan.replicas):
            stage_s, slowdowns = stats.stage_s[index], stats.slowdowns[index]
            is_pipeline = len(replica.shards) == len(replica.stages) == len(stage_s) > 1
            is_slow = self._watched[index].look(slowdowns if is_pipeline else (), num_requests, now_s)
            if is_slow and not self._running.is_changing(index):
                self._consider(index, stage_s, now_s)

    def _consider(self, index: int, stage_s: Sequence[float], now_s: float) -> None:
        boundaries = [stage.first_node for stage in self._running.plan.replicas[index].stages[1:]]
        best = recut(self._node_s, self._places, boundaries, stage_s)
        move = self._watched[index].weigh(stage_s, best.stage_s, now_s)
        fits_beside = weight_bytes(self._graph, 0, self._graph.num_nodes) < free_memory_bytes()
        if move.pays and fits_beside:
            self._move(index, best, move.gain)

    def _move(self, index: int, best: Recut, gain: float) -> None:
        """The old workers serve until the new ones have loaded."""
        watched, replica = self._watched[index], self._running.plan.replicas[index]
        moved = _with_boundaries(self._graph, replica, best.boundaries)
        before, after = (", ".join(str(stage.first_node) for stage in one.stages[1:]) for one in (replica, moved))

        def done(error: ShoalError | None) -> None:
            watched.start_over()
            if error is not None:
                _logger.info(f"replica {index} keeps its nodes: {error}")
            if isinstance(error, ModelChanged):
                self._next_s = math.inf  # others that load would fail alike

        _logger.info(
            f"replica {index}: cutting at node {after} instead of {before}, {gain:.0%} less time a batch expected"
        )
        self._running.change(index, moved, done)

    @cached_property
    def _node_s(self) -> Sequence[float]:
        return estimate_nodes(self._graph) if self._times is None else self._times.seconds

    @cached_property
    def _places(self) -> Sequence[CutPlace]:
        return cut_places(self._graph, self._times)


def _with_boundaries(graph: GraphFile, replica: GraphReplicaPlan, boundaries: Sequence[int]) -> GraphReplicaPlan:
    """The same workers, one a stage, with other nodes."""
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

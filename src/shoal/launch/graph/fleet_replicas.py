"""Building a graph's plan from chosen machines: the inputs and outputs of every stage, and the place of every
worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from shoal.core.plan.graph import GraphReplicaPlan, GraphShardPlan, GraphStagePlan, SplitReport
from shoal.core.plan.placement import WorkerPlacement
from shoal.machines.placed_fleet import PlacedGraphFleet
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.planner.graph_choice.fleet_candidate import ChosenGraphStage, FleetCandidate
from shoal.protocol.stage_interface import StageInterface


def build_fleet_replicas(
    graph: GraphFile, candidate: FleetCandidate, placed: PlacedGraphFleet
) -> tuple[GraphReplicaPlan, ...]:
    """The replicas of a candidate. The workers of a class get its places in order."""
    free = [iter(places) for places in placed.places]
    builder = _PlanBuilder(graph, free)
    return tuple(builder.replica(replica) for replica in candidate.replicas)


class _PlanBuilder:
    """Builds replicas; stages that are equal in several replicas are computed once."""

    def __init__(self, graph: GraphFile, free: Sequence[Iterator[WorkerPlacement]]) -> None:
        """`free`: the free places of each class."""
        self._graph, self._free = graph, free
        self._interfaces = cache(lambda boundaries: tuple(stage_interfaces(graph, boundaries)))
        self._figures = cache(self._make_figures)

    def replica(self, stages: Sequence[ChosenGraphStage]) -> GraphReplicaPlan:
        """Build a replica from its chosen stages."""
        boundaries = tuple(stage.first_node for stage in stages[1:])
        interfaces: tuple[StageInterface, ...] = self._interfaces(boundaries)
        return GraphReplicaPlan(
            stages=tuple(
                self._stage(stage, interface, self._figures(boundaries, index, stage.shares))
                for index, (stage, interface) in enumerate(zip(stages, interfaces, strict=True))
            )
        )

    def _stage(
        self, stage: ChosenGraphStage, interface: StageInterface, figures: tuple[SplitReport | None, Sequence[int]]
    ) -> GraphStagePlan:
        report, shard_bytes = figures
        places = [next(self._free[index]) for index in stage.group.members]
        return GraphStagePlan(
            first_node=stage.first_node,
            last_node=stage.last_node,
            inputs=interface.inputs,
            outputs=interface.outputs,
            shards=tuple(
                GraphShardPlan(**place.placement(), weight_bytes=num_bytes)
                for place, num_bytes in zip(places, shard_bytes, strict=True)
            ),
            shares=stage.shares,
            split=report,
            compute_s=stage.compute_s,
        )

    def _make_figures(
        self, boundaries: tuple[int, ...], index: int, shares: tuple[int, ...]
    ) -> tuple[SplitReport | None, Sequence[int]]:
        """The split report of a stage, None for a single worker, and the bytes of weights of each shard."""
        interface: StageInterface = self._interfaces(boundaries)[index]
        if len(shares) > 1:
            return split_figures(self._graph, interface, shares)
        return None, (weight_bytes(self._graph, interface.first_node, interface.last_node),)

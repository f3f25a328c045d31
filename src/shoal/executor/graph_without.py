"""A replica of an ONNX graph without one of its workers, which cannot be started again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.core.plan.graph import GraphReplicaPlan, GraphShardPlan, GraphStagePlan
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.protocol.stage_interface import StageInterface


def replica_without(graph: GraphFile, replica: GraphReplicaPlan, worker: int) -> GraphReplicaPlan | None:
    """The replica without one worker, whose work goes to the other shards of its stage, or to an adjacent stage.

    Args:
        graph: the file.
        replica: the planned replica.
        worker: the index of the worker to leave out, counted stage by stage and rank by rank.

    Returns:
        The replica; None if there is no other worker.
    """
    stages = replica.stages
    index, rank = [(i, rank) for i, stage in enumerate(stages) for rank in range(len(stage.shards))][worker]
    workers = [list(zip(stage.shards, stage.shares, strict=True)) for stage in stages]
    boundaries = [stage.first_node for stage in stages[1:]]
    if len(workers[index]) > 1:
        del workers[index][rank]
    elif len(stages) > 1:
        del workers[index], boundaries[max(0, index - 1)]
    else:
        return None
    interfaces = stage_interfaces(graph, boundaries)
    return GraphReplicaPlan(
        stages=tuple(_stage(graph, interface, own) for interface, own in zip(interfaces, workers, strict=True))
    )


def _stage(
    graph: GraphFile, interface: StageInterface, workers: Sequence[tuple[GraphShardPlan, int]]
) -> GraphStagePlan:
    """A stage with these nodes and workers, each with its share."""
    shares = tuple(share for _, share in workers)
    if len(shares) > 1:
        report, num_bytes = split_figures(graph, interface, shares)
    else:
        report, num_bytes = None, (weight_bytes(graph, interface.first_node, interface.last_node),)
    return GraphStagePlan(
        first_node=interface.first_node,
        last_node=interface.last_node,
        inputs=interface.inputs,
        outputs=interface.outputs,
        shards=tuple(replace(shard, weight_bytes=held) for (shard, _), held in zip(workers, num_bytes, strict=True)),
        shares=shares,
        split=report,
        compute_s=None,
    )

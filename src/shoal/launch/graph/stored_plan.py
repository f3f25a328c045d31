"""Reading a stored plan for an ONNX graph, which may have been edited, and checking it against file and machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan, GraphStagePlan
from shoal.errors import ConfigError
from shoal.launch.stored_plan import read_stored_plan
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.identity import graph_shape
from shoal.model.graph.stage.cuts import stage_interfaces


def read_graph_plan(name: str, *, model: str, graph: GraphFile, cores: Collection[int]) -> GraphPlan:
    """Read the plan in a file. The inputs and outputs of stages are taken from the graph, the rest from the file.

    Args:
        name: the name of the file.
        model: the model as the user named it.
        graph: the graph.
        cores: CPU ids that may be used here.

    Raises:
        ConfigError: the file is missing, or is no valid plan for this graph and this machine.
    """
    plan = read_stored_plan(name, GraphPlan, model=model, shape=graph_shape(graph))
    try:
        _check_axes(plan, graph)
        replicas = tuple(_fit(replica, graph, cores, f"replica {index}") for index, replica in enumerate(plan.replicas))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return replace(plan, model=model, inputs=graph.inputs, outputs=graph.outputs, replicas=replicas)


def _check_axes(plan: GraphPlan, graph: GraphFile) -> None:
    for named, specs in ((plan.batch.inputs, graph.inputs), (plan.batch.outputs, graph.outputs)):
        if set(named) != {spec.name for spec in specs}:
            raise ConfigError(f"batch axes are given for {', '.join(named)}, not for what the graph has")
    if not plan.replicas:
        raise ConfigError("the plan has no replicas")


def _fit(replica: GraphReplicaPlan, graph: GraphFile, cores: Collection[int], place: str) -> GraphReplicaPlan:
    """Check that stages follow each other from the first node to the last, with cuts where the graph can be cut, and
    fill in their inputs and outputs."""
    edges = [(0, 0), *((stage.first_node, stage.last_node) for stage in replica.stages), (graph.num_nodes,) * 2]
    for (_, reached), (first, _) in pairwise(edges):
        if first != reached:
            raise ConfigError(f"{place}: stages end at node {reached} and go on at {first}")
    interfaces = stage_interfaces(graph, [stage.first_node for stage in replica.stages[1:]])
    for number, stage in enumerate(replica.stages):
        _check_shards(stage, cores, f"{place} stage {number}")
    return GraphReplicaPlan(
        stages=tuple(
            replace(stage, inputs=interface.inputs, outputs=interface.outputs)
            for stage, interface in zip(replica.stages, interfaces, strict=True)
        )
    )


def _check_shards(stage: GraphStagePlan, cores: Collection[int], where: str) -> None:
    if len(stage.shares) != len(stage.shards) or min(stage.shares, default=0) < 1:
        raise ConfigError(f"{where}: every shard needs a share of at least 1")
    for shard in stage.shards:
        if shard.threads < 1:
            raise ConfigError(f"{where}: a worker needs at least 1 thread")
        if shard.machine is None and (missing := set(shard.cores) - set(cores)):
            raise ConfigError(f"{where}: there is no CPU {min(missing)} to use here")

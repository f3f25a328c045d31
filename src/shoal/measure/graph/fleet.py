"""The planner's input for a graph: the machines, and the sizes and times of the graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shoal.measure.graph.cuts import cut_places, head_bytes
from shoal.measure.graph.node_sizes import shard_works
from shoal.measure.graph.profile import GraphSetting
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.graph_choice.fleet import GraphFleet, GraphWorkerClass
from shoal.planner.speeds.speeds import LinkSpeed


def make_graph_fleet(
    setting: GraphSetting,
    nodes: NodeTimes,
    classes: Sequence[GraphWorkerClass],
    links: tuple[tuple[LinkSpeed, ...], ...],
    *,
    message_s: float = 0.0,
    near: Collection[int] = (),
) -> GraphFleet:
    """The machines and the graph together.

    Args:
        setting: the graph and a micro-batch.
        nodes: the times of a sample run on any machine, for the bytes that cross cuts.
        classes: the machines.
        links: the links, [from class][to class].
        message_s: seconds of a micro-batch's round trip between the head and a worker.
        near: see `GraphFleet.near`.
    """
    graph = setting.graph
    return GraphFleet(
        model=setting.model,
        rows=setting.rows,
        classes=tuple(classes),
        links=links,
        places=cut_places(graph, nodes),
        weight_bytes=lambda first, last: weight_bytes(graph, first, last),
        shard_work=shard_works(graph, nodes, rows=setting.rows),
        message_s=message_s,
        head_bytes=head_bytes(graph, setting.sample, nodes),
        near=frozenset(near),
    )

"""A shard's model, cut at its collectives into what is computed before, between and after them.

A collective is a marker in the graph: `shoal.AllReduce(x) -> y` or `shoal.AllGather(x) -> y`. Segment `k` contains the
nodes that wait for marker `k - 1` but for none after it, so everything is computed as early as possible. What depends
on weights only is computed again by every segment that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx.helper import get_attribute_value

from shoal.model.graph.file.dataflow import Dataflow, trace, weight_names
from shoal.model.graph.file.default_inputs import MIN_IR_VERSION

MARKER_DOMAIN = "shoal"
ALL_REDUCE, ALL_GATHER = "AllReduce", "AllGather"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A value of which every shard has one term of the sum."""

    source: str
    result: str
    is_last_use: bool
    """Whether nothing else reads the source, so that the sum may overwrite it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """A value of which every shard has a slice."""

    source: str
    result: str
    axis: int
    """Axis along which it is sliced, >= 0."""
    sizes: tuple[int, ...]
    """Size of each shard's slice along the axis."""


Marker = Reduction | Gathering


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSegment:
    """Nodes that are computed without waiting for other shards."""

    nodes: tuple[int, ...]
    """Nodes in order, including constant ones that other segments may contain as well."""
    weights: frozenset[str]
    """Initializers that the nodes read."""
    inputs: tuple[str, ...]
    """Values from the stage's inputs, other segments and markers."""
    outputs: tuple[str, ...]
    """Values for other segments, markers and the stage's outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedGraph:
    """Runs in the order segment 0, marker 0, segment 1, ...: one segment more than markers, some of them without
    nodes."""

    segments: tuple[GraphSegment, ...]
    markers: tuple[Marker, ...]


def cut_at_markers(model: onnx.ModelProto) -> SegmentedGraph:
    """Find the segments of a model whose nodes are in topological order."""
    flow, graph = trace(model, run_once=(ALL_REDUCE, ALL_GATHER)), model.graph
    places = [node for node in sorted(flow.active) if graph.node[node].domain == MARKER_DOMAIN]
    levels = _levels(flow, places)
    results = {output.name for output in graph.output} | {graph.node[node].input[0] for node in places}
    crossing = results | _crossing(flow, levels)
    weights = weight_names(graph)
    constants = {name for name in results if flow.is_constant(name, weights)}
    members: list[list[int]] = [[] for _ in range(len(places) + 1)]
    for node in levels.keys() - set(places):
        members[levels[node]].append(node)
    return SegmentedGraph(
        segments=tuple(
            _segment(flow, weights, nodes, crossing, set() if index else constants)
            for index, nodes in enumerate(members)
        ),
        markers=tuple(_marker(graph, node, flow) for node in places),
    )


def segment_model(
    model: onnx.ModelProto, segment: GraphSegment, input_types: Mapping[str, onnx.TypeProto]
) -> onnx.ModelProto:
    """A segment as a separate model. Outputs have no type, because ONNX Runtime infers it.

    Args:
        model: of the whole shard.
        segment: one of its segments.
        input_types: of the segment's inputs.
    """
    source = model.graph
    built = onnx.ModelProto(
        ir_version=max(model.ir_version, MIN_IR_VERSION),
        producer_name="shoal",
        opset_import=[opset for opset in model.opset_import if opset.domain != MARKER_DOMAIN],
        functions=model.functions,
        metadata_props=model.metadata_props,
    )
    built.graph.name = source.name or "graph"
    built.graph.node.extend(source.node[node] for node in segment.nodes)
    built.graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in segment.weights)
    built.graph.sparse_initializer.extend(
        sparse for sparse in source.sparse_initializer if sparse.values.name in segment.weights
    )
    built.graph.input.extend(onnx.ValueInfoProto(name=name, type=input_types[name]) for name in segment.inputs)
    built.graph.output.extend(onnx.ValueInfoProto(name=name) for name in segment.outputs)
    return built


def _levels(flow: Dataflow, places: Sequence[int]) -> dict[int, int]:
    """How many markers must have run before each active node; a marker's own level is its number."""
    level_after = {node: number + 1 for number, node in enumerate(places)}
    levels: dict[int, int] = {}
    for node in sorted(flow.active):
        writers = {flow.producer.get(name) for name in flow.reads[node]} & levels.keys()
        ready = max((level_after.get(writer, levels[writer]) for writer in writers if writer is not None), default=0)
        levels[node] = level_after[node] - 1 if node in level_after else ready
    return levels


def _crossing(flow: Dataflow, levels: Mapping[int, int]) -> set[str]:
    """Values that one segment computes and a later one reads."""
    return {
        name
        for node, level in levels.items()
        for name in flow.reads[node]
        if levels.get(flow.producer.get(name, -1), level) != level
    }


def _segment(
    flow: Dataflow, weights: set[str], members: Iterable[int], crossing: set[str], constants: set[str]
) -> GraphSegment:
    """The segment of these nodes; `constants` become outputs as well."""
    nodes = set(members)
    needed = constants.union(*(flow.reads[node] for node in nodes))
    for node in sorted(flow.constant, reverse=True):
        if not needed.isdisjoint(flow.writes[node]):
            nodes.add(node)
            needed.update(flow.reads[node])
    order = sorted(nodes)
    read = dict.fromkeys(name for node in order for name in flow.reads[node])
    written = [name for node in order for name in flow.writes[node]]
    inner = weights.union(written)
    handed_out = (name for name in written if name in crossing and flow.producer[name] not in flow.constant)
    return GraphSegment(
        nodes=tuple(order),
        weights=frozenset(needed & weights),
        inputs=tuple(name for name in read if name not in inner),
        outputs=(*handed_out, *sorted(constants)),
    )


def _marker(graph: onnx.GraphProto, node: int, flow: Dataflow) -> Marker:
    marker = graph.node[node]
    source, result = marker.input[0], marker.output[0]
    if marker.op_type == ALL_GATHER:
        attributes = {attribute.name: get_attribute_value(attribute) for attribute in marker.attribute}
        return Gathering(source=source, result=result, axis=attributes["axis"], sizes=tuple(attributes["sizes"]))
    num_uses = sum(source in flow.reads[reader] for reader in flow.active)
    num_uses += any(output.name == source for output in graph.output)
    is_computed = flow.producer.get(source) in flow.active
    return Reduction(source=source, result=result, is_last_use=is_computed and num_uses == 1)

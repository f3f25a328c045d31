"""The facts that `shoal inspect` shows of an ONNX graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from shoal.core.plan.graph import SplitReport
from shoal.errors import while_reading
from shoal.model.graph.file.dataflow import nested_nodes
from shoal.model.graph.file.flops import SHARDABLE_OPERATORS, node_flops
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.weight_tensors import inner_tensors, named_weights, num_elements
from shoal.model.graph.stage.cuts import CutPoint, cut_points, stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes, with_functions
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.protocol.stage_interface import TensorSpec

NUM_NARROWEST = 5
"""Cut points that the report lists: enough to show where little crosses a cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """Facts about one graph. Symbolic dimensions count as 1 in FLOPs and bytes."""

    opsets: Mapping[str, int]
    """Operator set version by domain."""
    operators: Mapping[str, int]
    """Number of nodes of each operator, including those inside bodies; most frequent first."""
    num_nodes: int
    """Nodes at the top level, by which cuts are numbered."""
    num_parameters: int
    """Elements of all weights."""
    weight_bytes: int
    flops: int
    """Floating-point operations of one run, 2 for each multiply-add, of products and convolutions at the top level."""
    num_unsized: int
    """Products and convolutions left out of `flops`: inside bodies, or of unknown shape."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    num_cuts: int
    narrowest_cuts: tuple[CutPoint, ...]
    """Cut points with the fewest bytes, in ascending order."""
    two_shards: SplitReport
    """What two equal shards would split between them."""


def describe_graph(graph: GraphFile) -> GraphReport:
    """Collect the facts without running the graph or reading its weights. Raises ModelLoadError."""
    with while_reading(graph.path):
        return _describe(graph)


def _describe(graph: GraphFile) -> GraphReport:
    nodes = graph.model.graph.node
    everywhere = list(nested_nodes(with_functions(graph, range(graph.num_nodes))))
    weights = {name: tuple(tensor.dims) for name, tensor in named_weights(graph.model.graph).items()}
    flops = [node_flops(node, graph.value_specs, weights) for node in nodes]
    num_products = sum(node.op_type in SHARDABLE_OPERATORS for node in everywhere)
    cuts = cut_points(graph)
    (whole,) = stage_interfaces(graph, ())
    return GraphReport(
        opsets={opset.domain or "ai.onnx": opset.version for opset in graph.model.opset_import},
        operators=dict(Counter(node.op_type for node in everywhere).most_common()),
        num_nodes=graph.num_nodes,
        num_parameters=_num_parameters(graph),
        weight_bytes=weight_bytes(graph, 0, graph.num_nodes),
        flops=sum(count for count in flops if count is not None),
        num_unsized=num_products - sum(count is not None for count in flops),
        inputs=graph.inputs,
        outputs=graph.outputs,
        num_cuts=len(cuts),
        narrowest_cuts=tuple(sorted(cuts, key=lambda cut: cut.bytes_per_run)[:NUM_NARROWEST]),
        two_shards=split_figures(graph, whole, (1, 1))[0],
    )


def _num_parameters(graph: GraphFile) -> int:
    source = graph.model.graph
    tensors = [*source.initializer, *inner_tensors(with_functions(graph, range(graph.num_nodes)))]
    tensors += [sparse.values for sparse in source.sparse_initializer]
    return sum(map(num_elements, tensors))

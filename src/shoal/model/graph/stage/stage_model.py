"""Extracts a stage as a separate ONNX model with its nodes, the weights that they need, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx.helper import make_tensor_value_info

from shoal.model.graph.file.dataflow import nested_nodes
from shoal.model.graph.file.default_inputs import MIN_IR_VERSION
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.value_types import ELEMENT_TYPES, value_info
from shoal.model.graph.file.weight_tensors import inner_bytes, num_bytes, read_if_small, sparse_bytes
from shoal.protocol.stage_interface import StageInput, StageOutput, TensorSpec


def extract_stage(
    graph: GraphFile,
    first_node: int,
    last_node: int,
    inputs: Sequence[StageInput],
    outputs: Sequence[StageOutput],
) -> onnx.ModelProto:
    """The model of one stage.

    External data stay external, so the session must be told `graph.folder`; only small ones are read, since ONNX
    Runtime's shape inference needs shapes and axes. Weights that the file also lists as inputs stay replaceable, so
    that ONNX Runtime optimizes a stage in the same way as the whole file.
    """
    nodes, values = graph.dataflow.nodes_for((output.spec.name for output in outputs), first_node, last_node)
    source = graph.model
    stage = onnx.ModelProto(
        ir_version=max(source.ir_version, MIN_IR_VERSION),
        producer_name="shoal",
        opset_import=source.opset_import,
        functions=source.functions,
        metadata_props=source.metadata_props,
    )
    stage.graph.name = source.graph.name or "graph"
    stage.graph.node.extend(source.graph.node[node] for node in nodes)
    stage.graph.initializer.extend(
        read_if_small(tensor, graph.folder) for tensor in source.graph.initializer if tensor.name in values
    )
    stage.graph.sparse_initializer.extend(
        sparse for sparse in source.graph.sparse_initializer if sparse.values.name in values
    )
    stage.graph.input.extend(value_info(taken.spec) for taken in inputs)
    stage.graph.input.extend(_replaceable_weights(graph, values))
    stage.graph.output.extend(_output_info(output.spec) for output in outputs)
    inner = {name for node in nodes for name in graph.dataflow.writes[node]} - {output.spec.name for output in outputs}
    stage.graph.value_info.extend(value for value in source.graph.value_info if value.name in inner)
    return stage


def weight_bytes(graph: GraphFile, first_node: int, last_node: int) -> int:
    """Bytes of all weights of a stage, wherever they are; one that several nodes share counts once.

    Initializers (external ones by their dimensions), `Constant` nodes, trees, and weights inside bodies and inside the
    functions that the stage calls are counted.
    """
    flow = graph.dataflow
    results = [name for node in range(first_node, last_node) if node in flow.active for name in flow.writes[node]]
    if last_node == graph.num_nodes:
        results += [output.name for output in graph.outputs]
    nodes, values = flow.nodes_for(results, first_node, last_node)
    source = graph.model.graph
    dense = sum(num_bytes(tensor) for tensor in source.initializer if tensor.name in values)
    sparse = sum(sparse_bytes(tensor) for tensor in source.sparse_initializer if tensor.values.name in values)
    return dense + sparse + inner_bytes(with_functions(graph, nodes))


def model_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights of a model that contains no unused ones."""
    dense = sum(map(num_bytes, model.graph.initializer))
    sparse = sum(map(sparse_bytes, model.graph.sparse_initializer))
    return dense + sparse + inner_bytes([*model.graph.node, *(node for f in model.functions for node in f.node)])


def with_functions(graph: GraphFile, nodes: Iterable[int]) -> list[onnx.NodeProto]:
    """These nodes, and those of the model's own functions that they call, each function once."""
    found = [graph.model.graph.node[node] for node in nodes]
    waiting = {(called.domain, called.name, called.overload): called for called in graph.model.functions}
    pending = list(found)
    while pending and waiting:
        keys = [(node.domain, node.op_type, node.overload) for node in nested_nodes(pending)]
        functions = [waiting.pop(key) for key in dict.fromkeys(keys) if key in waiting]
        pending = [node for function in functions for node in function.node]
        found += pending
    return found


def _replaceable_weights(graph: GraphFile, values: set[str]) -> list[onnx.ValueInfoProto]:
    if graph.model.ir_version < MIN_IR_VERSION:
        return []
    return [value for value in graph.model.graph.input if value.name in graph.weights and value.name in values]


def _output_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """An output without a shape: ONNX Runtime infers it, and the file's may be out of date."""
    return make_tensor_value_info(spec.name, ELEMENT_TYPES[spec.dtype], None)

"""Identifies graphs by what they compute, not by the numbers in their weights.

Times, cuts and plans hold for every graph of the same structure: one that was trained further needs no new plan.
"""

from __future__ import annotations

import hashlib

import onnx

from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.weight_tensors import SMALL_WEIGHT_BYTES, num_bytes
from shoal.model.graph.stage.stage_model import weight_bytes

_MB = 1e6
_SHOWN_DIGITS = 12


def graph_digest(graph: GraphFile) -> str:
    """Digest of nodes, inputs, outputs, and the weights' names, types and sizes; of small weights their content,
    too."""
    source = graph.model.graph
    digest = hashlib.sha256()
    for part in (*graph.model.opset_import, *source.input, *source.output, *graph.model.functions, *source.node):
        digest.update(part.SerializeToString(deterministic=True))
    for tensor in source.initializer:
        digest.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        if num_bytes(tensor) <= SMALL_WEIGHT_BYTES and tensor.data_location != onnx.TensorProto.EXTERNAL:
            digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def graph_shape(graph: GraphFile) -> str:
    """A graph's shape and digest in one line, which no other structure has."""
    size_mb = weight_bytes(graph, 0, graph.num_nodes) / _MB
    names = ", ".join(spec.name for spec in graph.inputs)
    return f"{graph.num_nodes} nodes on {names}, {size_mb:.1f} MB of weights, {graph_digest(graph)[:_SHOWN_DIGITS]}"

"""The tensors in a model file: everywhere they may be, their sizes, and where external ones lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from shoal.errors import ModelLoadError
from shoal.model.graph.file.dataflow import bodies, nested_nodes

BITS = {
    **dict.fromkeys(("UINT2", "INT2"), 2),
    **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
    **dict.fromkeys(("BOOL", "INT8", "UINT8"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT16", "UINT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("INT32", "UINT32", "FLOAT"), 32),
    **dict.fromkeys(("INT64", "UINT64", "DOUBLE", "COMPLEX64"), 64),
    "COMPLEX128": 128,
}
"""Bits of one element, packed. Source: `TensorProto.DataType` in onnx.proto."""

_ELEMENT_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
MAX_ELEMENTS = 1 << 48
"""Limit for one tensor: far more than any memory holds, and few enough that no size overflows."""
SMALL_WEIGHT_BYTES = 1024
"""Weights up to this size may be shapes, axes or sizes, whose numbers determine the shapes of other values."""


def num_elements(tensor: onnx.TensorProto) -> int:
    """Elements of a tensor, by its dimensions."""
    return math.prod(tensor.dims)


def num_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor in memory, from its type and dimensions; external data are not read."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return math.ceil(num_elements(tensor) * BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type), 0) / 8)


def sparse_bytes(sparse: onnx.SparseTensorProto) -> int:
    """Bytes of a sparse tensor: its values and their positions."""
    return num_bytes(sparse.values) + num_bytes(sparse.indices)


def inner_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Tensors inside nodes: values of `Constant` nodes, and all tensors in bodies."""
    for node in nested_nodes(nodes):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for body in bodies(node):
            yield from body.initializer
            for sparse in body.sparse_initializer:
                yield from (sparse.values, sparse.indices)


def inner_bytes(nodes: Iterable[onnx.NodeProto]) -> int:
    """Bytes of the weights inside nodes: `inner_tensors`, and lists of numbers in which some operators keep weights."""
    nodes = list(nodes)
    lists = [a for node in nested_nodes(nodes) if _holds_lists(node) for a in node.attribute]
    list_bytes = sum(4 * len(a.floats) + 8 * len(a.ints) + sum(map(len, a.strings)) for a in lists)
    return sum(map(num_bytes, inner_tensors(nodes))) + list_bytes


def _holds_lists(node: onnx.NodeProto) -> bool:
    """Whether a node keeps weights in lists: trees, linear models and scalers of the machine-learning domain, and the
    list forms of `Constant`."""
    return node.domain == "ai.onnx.ml" or node.op_type == "Constant"


def named_weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Dense weights at the top level by the name that nodes read: initializers and values of `Constant` nodes."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            weights[node.output[0]] = node.attribute[0].t
    return weights


def check_tensors(model: onnx.ModelProto) -> None:
    """Check that every tensor of the file has a possible type and size.

    Raises:
        ModelLoadError: names the tensor.
    """
    for tensor in all_tensors(model):
        if tensor.data_type not in _ELEMENT_TYPES:
            raise ModelLoadError(f"weight {tensor.name!r} has the unknown element type {tensor.data_type}")
        if min(tensor.dims, default=0) < 0 or num_elements(tensor) > MAX_ELEMENTS:
            raise ModelLoadError(f"weight {tensor.name!r} has the impossible shape {list(tensor.dims)}")
        if tensor.HasField("raw_data") and not uses_external_data(tensor) and len(tensor.raw_data) != num_bytes(tensor):
            raise ModelLoadError(
                f"weight {tensor.name!r} has {len(tensor.raw_data)} bytes, but its shape {list(tensor.dims)} needs "
                f"{num_bytes(tensor)}"
            )


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a file, wherever they are."""
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from inner_tensors(model.graph.node)
    for function in model.functions:
        yield from inner_tensors(function.node)


def read_if_small(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """The tensor itself, or a copy that contains its data if these are external and small."""
    if not uses_external_data(tensor) or num_bytes(tensor) > SMALL_WEIGHT_BYTES:
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    load_external_data_for_tensor(copy, str(folder))
    copy.data_location = onnx.TensorProto.DEFAULT
    del copy.external_data[:]
    return copy

"""Floating-point operations of a node, from the shapes of what it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx

from shoal.protocol.stage_interface import TensorSpec

Shape = tuple[int, ...]
Rule = Callable[[onnx.NodeProto, Sequence[Shape | None], Shape | None], int | None]


def node_flops(node: onnx.NodeProto, specs: Mapping[str, TensorSpec], weights: Mapping[str, Shape]) -> int | None:
    """Operations of one product or convolution, 2 for each multiply-add; symbolic dimensions count as 1.

    Returns:
        None if the operator is neither, or a shape that matters is unknown.
    """
    if node.op_type not in SHARDABLE_OPERATORS:
        return None
    inputs = [weights.get(name) or _shape(specs.get(name)) for name in node.input]
    multiply_adds = SHARDABLE_OPERATORS[node.op_type](node, inputs, _shape(specs.get(node.output[0])))
    return None if multiply_adds is None else 2 * multiply_adds


def _shape(spec: TensorSpec | None) -> Shape | None:
    if spec is None or spec.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _product(left: int) -> Rule:
    """Every output element sums over the last axis of the input at position `left`."""

    def rule(node: onnx.NodeProto, inputs: Sequence[Shape | None], output: Shape | None) -> int | None:
        shape = inputs[left]
        if not shape or output is None:
            return None
        is_transposed = bool(_attribute(node, "transA", 0)) and len(shape) > 1
        return math.prod(output) * shape[-2 if is_transposed else -1]

    return rule


def _convolution(weight: int) -> Rule:
    """Every output element sums over the filter: weight [M, C / groups, kernel...]."""

    def rule(node: onnx.NodeProto, inputs: Sequence[Shape | None], output: Shape | None) -> int | None:
        shape = inputs[weight]
        return None if shape is None or output is None else math.prod(output) * math.prod(shape[1:])

    return rule


def _transposed_convolution(node: onnx.NodeProto, inputs: Sequence[Shape | None], output: Shape | None) -> int | None:
    """Every input element is spread over the filter: weight [C, M / groups, kernel...]."""
    data, weight = inputs[0], inputs[1]
    return None if data is None or weight is None else math.prod(data) * math.prod(weight[1:])


def _block_product(node: onnx.NodeProto, inputs: Sequence[Shape | None], output: Shape | None) -> int | None:
    """Attributes K and N give the packed weight's sizes. Source: ONNX Runtime's contrib operators."""
    data = inputs[0]
    return None if not data else math.prod(data[:-1]) * _attribute(node, "K", 0) * _attribute(node, "N", 0)


SHARDABLE_OPERATORS: Mapping[str, Rule] = {
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "FusedGemm"), _product(0)),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm"), _product(0)),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _block_product),
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "ConvInteger"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
}
"""Operators whose time is multiply-adds with a weight, with the function that counts the operations of a run."""

"""Operators that compute each element independently."""

from __future__ import annotations

import onnx

from shoal.model.graph.tensor_parallel.steps import Local, NodeStep, Operand, Whole
from shoal.model.graph.tensor_parallel.tracer import Tracer


def unary(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """The result is split as the input is."""
    split = trace.layout(node.input[0])
    if split is None:
        return None
    return NodeStep(operands=(Local(), *(Whole(),) * (len(node.input) - 1)), outputs=(split,))


def dropout(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Does nothing outside training; left whole if anything reads the mask."""
    return unary(trace, node) if len([name for name in node.output if name]) == 1 else None


def broadcasting(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """The result is split as the first split input that the others can follow."""
    for name in node.input:
        split, rank = trace.layout(name), trace.rank(name)
        if split is not None and rank is not None and (step := _following(trace, node, name, rank)):
            return step
    return None


def _following(trace: Tracer, node: onnx.NodeProto, leader: str, rank: int) -> NodeStep | None:
    split = trace.layouts[leader]
    pairs: list[tuple[int, int]] = []
    operands: list[Operand] = []
    ranks = [rank]
    for name in node.input:
        operand = Local() if name == leader else trace.aligned_operand(name, rank - split.axis, split, pairs)
        if operand is None:
            return None
        operands.append(operand)
        ranks.append(trace.rank(name) or 0)
    if not trace.classes.constrain(pairs):
        return None
    return NodeStep(operands=tuple(operands), outputs=(split.at(max(ranks) - rank + split.axis),))

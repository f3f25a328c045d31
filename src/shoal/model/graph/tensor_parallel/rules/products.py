"""Matrix products: a weight is cut by columns, or by rows if the other factor is split already.

Column-cut products give slices, row-cut ones parts of a sum, as in Megatron-LM (Shoeybi et al. 2019, section 3).
Products of two computed values, as in attention, are cut along axes that both have (heads) or that only one has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from shoal.model.graph.tensor_parallel.layouts import AxisSplit
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, input_name, number
from shoal.model.graph.tensor_parallel.steps import AddedOnce, Cut, Local, NodeStep, Operand, Whole
from shoal.model.graph.tensor_parallel.tracer import Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """A product [..., m, k] x [..., k, n]. Axes count from the end, 1 for the last."""

    names: tuple[str, str]
    free: tuple[int, int] = (2, 1)
    """Axis of m in the left factor, and of n in the right one."""
    summed: tuple[int, int] = (1, 2)
    """Axis of k in each factor."""


def matmul(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`MatMul` of two values with at least two axes."""
    return _product(trace, _Factors(names=(node.input[0], node.input[1])))


def gemm(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`Gemm`; its bias is added after the sum if the product is a part of one."""
    free = (1 if attribute(node, "transA", 0) else 2, 2 if attribute(node, "transB", 0) else 1)
    names = (node.input[0], node.input[1])
    step = _product(trace, _Factors(names=names, free=free, summed=(3 - free[0], 3 - free[1])))
    bias = input_name(node, 2)
    if step is None or not bias:
        return step
    split = step.outputs[0]
    if split is None:
        return replace(step, bias=AddedOnce(bias, number(node, "beta", 1.0)))
    pairs: list[tuple[int, int]] = []
    operand = trace.aligned_operand(bias, 2 - split.axis, split, pairs)
    if operand is None or not trace.classes.constrain(pairs):
        return None
    return replace(step, operands=(*step.operands, operand))


def _product(trace: Tracer, factors: _Factors) -> NodeStep | None:
    ranks = [trace.rank(name) or 0 for name in factors.names]
    if min(ranks) < 2:
        return None
    for side, name in enumerate(factors.names):
        split = trace.layout(name)
        if split is not None and (step := _carry(trace, factors, side, split, ranks)):
            return step
    return _start(trace, factors, ranks)


def _carry(trace: Tracer, factors: _Factors, side: int, split: AxisSplit, ranks: list[int]) -> NodeStep | None:
    """The product with a factor that is split already."""
    other = factors.names[1 - side]
    from_end = ranks[side] - split.axis
    pairs: list[tuple[int, int]] = []
    if from_end == factors.summed[side]:
        axis = ranks[1 - side] - factors.summed[1 - side]
        operand, output = trace.operand(other, axis, split, pairs), None
    elif from_end == factors.free[side]:
        operand, output = Whole(), split.at(max(ranks) - (2, 1)[side])
    else:
        operand, output = trace.aligned_operand(other, from_end, split, pairs), split.at(max(ranks) - from_end)
    if operand is None or not trace.classes.constrain(pairs):
        return None
    return _step(side, Local(), operand, output)


def _start(trace: Tracer, factors: _Factors, ranks: list[int]) -> NodeStep | None:
    """Start a split by columns of a weight on the right, or by rows of one on the left."""
    for side in (1, 0):
        name = factors.names[side]
        if not trace.is_weight(name):
            continue
        axis = ranks[side] - factors.free[side]
        length = (trace.shape(name) or ())[axis].fixed
        split = None if length is None else trace.start(max(ranks) - (2, 1)[side], length)
        return None if split is None else _step(side, Cut(split.at(axis)), Whole(), split)
    return None


def _step(side: int, own: Operand, other: Operand, output: AxisSplit | None) -> NodeStep:
    operands = (own, other) if side == 0 else (other, own)
    return NodeStep(operands=operands, outputs=(output,), is_sum=output is None)

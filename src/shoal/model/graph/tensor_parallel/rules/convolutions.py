"""Convolutions: cut by output channels, by input channels into a sum, or by groups."""

from __future__ import annotations

from dataclasses import replace

import onnx

from shoal.model.graph.tensor_parallel.layouts import AxisSegment, AxisSplit
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, input_name
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE
from shoal.model.graph.tensor_parallel.steps import AddedOnce, Cut, Local, NodeStep, Operand, Whole
from shoal.model.graph.tensor_parallel.tracer import Tracer

_CHANNELS = 1
"""The axis of channels in inputs and outputs of convolutions."""


def convolution(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`Conv`: weight [output channels, input channels of a group, kernel...]."""
    return _convolution(trace, node, weight_input=1, weight_output=0)


def transposed_convolution(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`ConvTranspose`: weight [input channels, output channels of a group, kernel...]."""
    return _convolution(trace, node, weight_input=0, weight_output=1)


def _convolution(trace: Tracer, node: onnx.NodeProto, *, weight_input: int, weight_output: int) -> NodeStep | None:
    data, weight = node.input[0], node.input[1]
    split, rank = trace.layout(data), trace.rank(data)
    if rank is None or rank < 3 or not trace.is_weight(weight):
        return None
    if split is not None and split.axis == 0:
        return NodeStep(operands=(Local(), *(Whole(),) * (len(node.input) - 1)), outputs=(split,))
    if attribute(node, "group", 1) > 1:
        return _grouped(trace, node)
    if split is not None and split.axis == _CHANNELS:
        return _summed(trace, node, split, weight_input, rank - 2)
    channels = (trace.shape(weight) or ())[weight_output].fixed
    split = None if channels is None else trace.start(_CHANNELS, channels)
    if split is None:
        return None
    return _step(node, Whole(), Cut(split.at(weight_output)), split)


def _summed(
    trace: Tracer, node: onnx.NodeProto, split: AxisSplit, weight_axis: int, num_spatial: int
) -> NodeStep | None:
    operand = trace.operand(node.input[1], weight_axis, split, [])
    if operand is None:
        return None
    name = input_name(node, 2)
    bias = AddedOnce(name, num_spatial=num_spatial) if name else None
    return NodeStep(operands=(Local(), operand), outputs=(None,), is_sum=True, bias=bias)


def _grouped(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Whole groups: their inputs, weights and outputs are cut alike."""
    data, weight = trace.shape(node.input[0]), trace.shape(node.input[1])
    num_groups = attribute(node, "group", 1)
    channels = None if data is None else data[_CHANNELS].fixed
    if channels is None or weight is None:
        return None
    inputs_per_group = channels // num_groups
    is_transposed = node.op_type == "ConvTranspose"
    per_group = weight[1].number if is_transposed else weight[0].number // num_groups
    found = _groups(trace, node.input[0], channels, inputs_per_group)
    if found is None:
        return None
    operand, taken, groups = found
    output = _scaled(groups, per_group)
    step = _step(node, operand, Cut((taken if is_transposed else output).at(0)), output)
    return replace(step, sizes={"group": groups})


def _groups(trace: Tracer, data: str, channels: int, per_group: int) -> tuple[Operand, AxisSplit, AxisSplit] | None:
    """How the input is read, and its channels and the groups as splits."""
    split = trace.layout(data)
    if split is None or split.axis != _CHANNELS:
        started = trace.start(_CHANNELS, channels, channels // per_group)
        if started is None:
            return None
        return Cut(started), started, _divided(started, per_group)
    if split.repeats != ONE:
        split = _unrolled(split)
    if split is None or any(segment.length % per_group for segment in split.period):
        return None
    limits = [(segment.split_class, segment.length // per_group) for segment in split.period]
    return (Local(), split, _divided(split, per_group)) if trace.classes.constrain(limits=limits) else None


def _unrolled(split: AxisSplit) -> AxisSplit | None:
    """The split with repeats as separate segments."""
    fixed = split.repeats.fixed
    return None if fixed is None else replace(split, period=split.period * fixed, repeats=ONE)


def _divided(split: AxisSplit, divisor: int) -> AxisSplit:
    return replace(split, period=tuple(AxisSegment(part.split_class, part.length // divisor) for part in split.period))


def _scaled(split: AxisSplit, factor: int) -> AxisSplit:
    return replace(split, period=tuple(AxisSegment(part.split_class, part.length * factor) for part in split.period))


def _step(node: onnx.NodeProto, data: Operand, weight: Cut, output: AxisSplit) -> NodeStep:
    bias = (Cut(output.at(0)),) if input_name(node, 2) else ()
    return NodeStep(operands=(data, weight, *bias), outputs=(output,))

"""Operators that mix some axes and leave the others alone: norms, softmax, reductions, pooling, resizing.

A split along an axis that is left alone stays; a value that is split along a mixed axis is gathered.
"""

from __future__ import annotations

import onnx

from shoal.model.graph.tensor_parallel.layouts import AxisSplit
from shoal.model.graph.tensor_parallel.shapes.nodes import (
    attribute,
    from_front,
    input_name,
    integers,
    is_open,
    listed,
    moved_axis,
)
from shoal.model.graph.tensor_parallel.steps import Local, NodeStep, Operand, ScaledEntry, Whole
from shoal.model.graph.tensor_parallel.tracer import Tracer

_CHANNELS = 1
_SOFTMAX_OF_ONE_AXIS = 13
"""Before this operator set, softmax used all axes from `axis` on as one. Source: the operator's changelog."""


def channel_norm(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Batch and instance normalization: parameters of channels are cut like the channels."""
    split = trace.layout(node.input[0])
    if split is None or split.axis > _CHANNELS or _is_training(node):
        return None
    if split.axis == 0:
        return _kept(node, split)
    pairs: list[tuple[int, int]] = []
    operands = [trace.operand(name, 0, split, pairs) for name in node.input[1:]]
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands) or not trace.classes.constrain(pairs):
        return None
    return NodeStep(operands=(Local(), *known), outputs=(split,))


def _is_training(node: onnx.NodeProto) -> bool:
    return len(node.output) > 1 or attribute(node, "training_mode", 0) == 1


def layer_norm(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Normalizes over all axes from `axis` on."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    if split is None or rank is None or split.axis >= from_front(attribute(node, "axis", -1), rank):
        return None
    is_single = len([name for name in node.output if name]) == 1
    return _kept(node, split) if is_single and _are_vectors(trace, node, rank, split) else None


def _are_vectors(trace: Tracer, node: onnx.NodeProto, rank: int, split: AxisSplit) -> bool:
    """Whether scale and bias do not extend to the split axis."""
    return all((trace.rank(name) or rank) < rank - split.axis for name in node.input[1:] if name)


def softmax(trace: Tracer, node: onnx.NodeProto, opset: int) -> NodeStep | None:
    """`Softmax` and similar operators."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    if split is None or rank is None:
        return None
    is_of_one = opset >= _SOFTMAX_OF_ONE_AXIS
    axis = from_front(attribute(node, "axis", -1 if is_of_one else 1), rank)
    is_left_alone = split.axis != axis if is_of_one else split.axis < axis
    return _kept(node, split) if is_left_alone else None


def reduction(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`ReduceMean` and similar operators; `axes` is an attribute or an input."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    if split is None or rank is None or is_open(node, 1, trace.constants):
        return None
    axes = listed(node, "axes", 1, trace.constants)
    if not axes:
        return _kept(node, split) if attribute(node, "noop_with_empty_axes", 0) else None
    reduced = [from_front(axis, rank) for axis in axes]
    if split.axis in reduced:
        return None
    axis = split.axis if attribute(node, "keepdims", 1) else moved_axis(split.axis, reduced)
    return _kept(node, split.at(axis))


def pooling(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Each channel of each row is pooled independently."""
    split = trace.layout(node.input[0])
    if split is None or split.axis > _CHANNELS or len(node.output) > 1:
        return None
    return _kept(node, split)


def resize(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Numbers of channels and rows stay; a list of sizes gets this rank's number of channels."""
    split = trace.layout(node.input[0])
    if split is None or split.axis > _CHANNELS or integers(node, "axes") is not None:
        return None
    if text_is(node, "coordinate_transformation_mode", "tf_crop_and_resize"):
        return None
    operands: list[Operand] = [Local(), *(Whole(),) * (len(node.input) - 1)]
    scales = input_name(node, 1 if node.op_type == "Upsample" else 2)
    sizes = "" if node.op_type == "Upsample" else input_name(node, 3)
    if sizes:
        content = trace.shapes.content(sizes)
        if content is None or content[split.axis] != split.size:
            return None
        operands[3] = ScaledEntry(split, split.axis)
        return NodeStep(operands=tuple(operands), outputs=(split,))
    array = trace.constants.array(scales) if scales in trace.constants else None
    if array is None or array.size <= split.axis or array[split.axis] != 1:
        return None
    return NodeStep(operands=tuple(operands), outputs=(split,))


def text_is(node: onnx.NodeProto, name: str, value: str) -> bool:
    """Whether a string attribute has this value."""
    return any(found.name == name and found.s.decode() == value for found in node.attribute)


def pad(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """The split axis must not be padded."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    if split is None or rank is None or is_open(node, 1, trace.constants) or is_open(node, 3, trace.constants):
        return None
    pads = listed(node, "pads", 1, trace.constants)
    axes = listed(node, "axes", 3, trace.constants) if input_name(node, 3) else None
    places = list(range(rank)) if axes is None else [from_front(axis, rank) for axis in axes]
    if pads is None or len(pads) != 2 * len(places):
        return None
    added = {axis for turn in (0, 1) for axis, size in zip(places, pads[turn * len(places) :], strict=False) if size}
    return None if split.axis in added else _kept(node, split)


def _kept(node: onnx.NodeProto, split: AxisSplit) -> NodeStep:
    operands = (Local(), *(Whole(),) * (len(node.input) - 1))
    return NodeStep(operands=operands, outputs=(split,))
